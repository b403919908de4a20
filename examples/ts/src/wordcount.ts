// Counts the words in the files of a folder.
//
//     node dist/wordcount.js --input=DIR --ext=.txt --top=20 --output=FILE \
//         --runner=universal --environmentType=LOOPBACK
import * as beam from "apache-beam";
import { CombineFn } from "apache-beam/transforms/group_and_combine";
import { Flags, main } from "./program";
import { listFiles, readLines, writeLines } from "./files";

type Count = { element: string; count: number };

/** The words of a line: runs of letters, without regard to case. */
function words(line: string): string[] {
  return line.toLowerCase().match(/[a-z]+/g) || [];
}

/** The n most frequent words; of equally frequent ones, the first of the alphabet. */
function mostFrequent(n: number): CombineFn<Count, Count[], Count[]> {
  const best = (counts: Count[]) =>
    counts.sort((a, b) => b.count - a.count || (a.element < b.element ? -1 : 1)).slice(0, n);
  return {
    createAccumulator: () => [],
    addInput: (top, count) => best([...top, count]),
    mergeAccumulators: (tops) => best([...tops].flat()),
    extractOutput: (top) => top,
  };
}

main((flags: Flags) => {
  const { input, output, ext = ".txt", top = 20 } = flags;
  const files = listFiles(input, ext);
  if (!files.length) throw new Error(`no ${ext} files under ${input}`);
  return (root) =>
    root
      .apply(beam.create(files))
      .flatMap(beam.withName("lines", readLines))
      .flatMap(beam.withName("words", words))
      .apply(beam.countPerElement())
      .apply(beam.groupGlobally<Count>().combining((c: Count) => c, mostFrequent(top), "counts"))
      .map(
        beam.withName("write", (result: { counts: Count[] }) =>
          writeLines(output, result.counts.map((c) => `${c.count}\t${c.element}`))
        )
      );
});
