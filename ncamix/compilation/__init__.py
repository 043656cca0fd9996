"""Compiling: a plan's sources, or its stages, as datasets for any trainer, anywhere.

samples    the samples of a source by number: generated, or read
journal    which shards an interrupted compilation has finished
reuse      where compiled shards lie already
places     where datasets are written: a folder, or a URL
compiled   compiled datasets as a run finds them
jobs       the datasets to be written
baking     one dataset a stage, in the order of training
writer     shards side by side, kept, brought or made
room       bytes needed, and what is said of a full folder
datasets   a plan's datasets, kept and written
progress   tokens written, speed and time left
"""
