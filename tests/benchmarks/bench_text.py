"""Compiling text, beside what `encode_batch` alone does on the same documents, as a ratio.

    python tests/benchmarks/bench_text.py [GLOB] [REPEATS]

All rounds have the same tokenizer and end with ids: ours in shards with their hashes and index,
the library's in the encodings that it returns for all documents at once. `encode_batch_fast`, which
leaves out where in the text each id comes from, is compared as well. GLOB names text instead of
the standard library; each copy is made another document by a line in front. Memory: a process of
its own that compiles all of it once. Processor time is compared as well, for busy machines.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from statistics import median
from time import process_time

from timing import headline, seconds, write_results
from tokenizers import Tokenizer

from ncamix.documents import read_documents
from ncamix.loading import load_curriculum
from ncamix.plan import Plan
from ncamix.planning import make_plan
from ncamix.sources.corpus import corpus_files
from ncamix.text_compilation import compile_text, tokenizer_file
from ncamix.trainer import load_trainer

ROUNDS = 5
CURRICULUM = """\
ncamix: 1
name: bench
tokenizer: {{bpe: 4096, train_on: [small]}}
sources:
  small: {{kind: text, files: [{folder}/0/*.txt], repeat: free}}
  words: {{kind: text, files: ['{folder}/*/*.txt'], duplicates: keep,
    holdout: {{share: 0.02}}, repeat: free}}
stages:
  - {{name: first, duration: 100%, mixture: {{words: 1, small: 1}}}}
"""
TRAINER = """\
ncamix: 1
name: bench
model: {layers: 1, heads: 1, width: 8}
sequence_length: 1024
batch_size: 8
budget: 100ktok
optimizer: {lr: 1e-3}
"""


def write_corpus(folder: Path, pattern: str, repeats: int) -> list[str]:
    """Copies of the text, one folder each; the texts in the order in which they are compiled."""
    files = corpus_files((pattern,), Path.cwd())
    texts = [document.text for document in read_documents(files, None)]
    for i in range(repeats):
        (folder / str(i)).mkdir()
        for j, text in enumerate(texts):
            (folder / f"{i}/{j:05}.txt").write_bytes(f"# copy {i}\n{text}".encode())
    return [f"# copy {i}\n{text}" for i in range(repeats) for text in texts]


def plan_of(folder: Path) -> Plan:
    (folder / "bench.yaml").write_text(CURRICULUM.format(folder=folder / "corpus"))
    (folder / "trainer.yaml").write_text(TRAINER)
    return make_plan(load_curriculum(folder / "bench.yaml"), load_trainer(folder / "trainer.yaml"))


def memory_of(folder: Path) -> float:
    """Largest resident size, in bytes, of a process that compiles the text once."""
    code = (
        "import sys; from pathlib import Path; sys.path.insert(0, sys.argv[2])\n"
        "from bench_text import plan_of; from ncamix.text_compilation import compile_text\n"
        "from timing import peak_memory\n"
        "plan = plan_of(Path(sys.argv[1]))\n"
        "compile_text(plan, plan.sources['words'])\n"
        "print(peak_memory())"
    )
    arguments = [sys.executable, "-c", code, str(folder), str(Path(__file__).parent)]
    environment = {**os.environ, "NCAMIX_CACHE": str(folder / "other")}
    done = subprocess.run(arguments, check=True, capture_output=True, text=True, env=environment)
    return float(done.stdout)


def main(pattern: str = "python-stdlib", repeats: str = "4") -> None:
    print(headline("text", f"medians of {ROUNDS} rounds"))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ["NCAMIX_CACHE"] = str(folder / "cache")
        (folder / "corpus").mkdir()
        texts = write_corpus(folder / "corpus", pattern, int(repeats))
        plan = plan_of(folder)
        tokenizer = Tokenizer.from_file(str(tokenizer_file(plan)))
        tokenizer.encode_special_tokens = True
        source = plan.sources["words"]

        def ours() -> None:
            # A fingerprint of its own each time: the process holds what it has compiled.
            ours.rounds += 1  # type: ignore[attr-defined]
            again = replace(source, fingerprint=f"{source.fingerprint}-{ours.rounds}")  # type: ignore[attr-defined]
            info = compile_text(plan, again)
            assert info["num_documents"] == len(texts)

        def theirs() -> None:
            tokenizer.encode_batch(texts, add_special_tokens=False)

        def fast() -> None:
            tokenizer.encode_batch_fast(texts, add_special_tokens=False)

        ours.rounds = 0  # type: ignore[attr-defined]
        works = {"ours": ours, "encode_batch": theirs, "encode_batch_fast": fast}
        walls: dict[str, list[float]] = {name: [] for name in works}
        busy: dict[str, list[float]] = {name: [] for name in works}
        for i in range(-1, ROUNDS):  # the first round warms up
            for name, work in works.items():
                before = process_time()
                wall = seconds(work)
                if i >= 0:
                    walls[name].append(wall)
                    busy[name].append(process_time() - before)
        num_bytes = sum(len(text.encode()) for text in texts)
        num_tokens = compile_text(plan, source)["num_tokens"]
        memory = memory_of(folder)
        speed = num_bytes / median(walls["ours"])
        print(
            f"  compiling text      {speed / 1e6:10.1f} MB/s, "
            f"{speed * num_tokens / num_bytes:,.0f} tokens/s; {num_bytes / 1e6:.0f} MB of text"
        )
        results = {"bytes_per_second": speed, "peak_bytes": memory}
        for name in ("encode_batch", "encode_batch_fast"):
            wall = [b / a for a, b in zip(walls["ours"], walls[name], strict=True)]
            cpu = [b / a for a, b in zip(busy["ours"], busy[name], strict=True)]
            print(
                f"  beside {name} alone: {median(wall):.0%} of its speed "
                f"({', '.join(f'{r:.0%}' for r in wall)}), {median(cpu):.0%} by processor time"
            )
            results |= {f"over_{name}": median(wall), f"over_{name}_by_processor": median(cpu)}
        print(f"  peak memory {memory / 1e6:,.0f} MB")
        write_results("text", results)


if __name__ == "__main__":
    main(*sys.argv[1:])
