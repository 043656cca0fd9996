"""Measuring corpora: how complex they are, and which automata score like them.

windows      windows of a stream: drawn, scored by gzip, with intervals
repetition   how much of a corpus stands in it more than once
corpora      corpora, as the command line names them
nearness     the bands and alphabets that score as a corpus does
measures     the measures of a corpus
output       as tables and as JSON
picture      corpora and alphabets on one scale
"""
