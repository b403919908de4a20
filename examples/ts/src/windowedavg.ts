// Averages temperatures per station and window of event time.
//
//     node dist/windowedavg.js --input=../data/weather.csv --window=3600 \
//         --runner=universal --environmentType=LOOPBACK
//
// The input has a header and then "time,station,celsius" lines, in any order.
import Long = require("long");
import * as beam from "apache-beam";
import * as combiners from "apache-beam/transforms/combiners";
import * as pardo from "apache-beam/transforms/pardo";
import { Flags, main } from "./program";
import { readLines, writeLines } from "./files";

type Reading = { time: number; station: string; celsius: number };

/** The reading on a line; none on the header's. */
function readings(line: string): Reading[] {
  const fields = line.split(",");
  if (fields[0] === "time") return [];
  const reading = { time: Date.parse(fields[0]), station: fields[1], celsius: parseFloat(fields[2]) };
  if (isNaN(reading.time) || isNaN(reading.celsius)) throw new Error(`not a reading: ${line}`);
  return [reading];
}

/** "2026-03-01T00:00:00Z", of a window's beginning in milliseconds. */
function format(start: Long): string {
  return new Date(start.toNumber()).toISOString().replace(".000Z", "Z");
}

main((flags: Flags) => {
  const { input, output, window = 3600 } = flags;
  return (root) =>
    root
      .apply(beam.create([input]))
      .flatMap(beam.withName("lines", readLines))
      .flatMap(beam.withName("readings", readings))
      .apply(beam.assignTimestamps((r: Reading) => Long.fromNumber(r.time)))
      .apply(beam.windowInto(beam.fixedWindows(window)))
      .apply(beam.groupBy("station").combining("celsius", combiners.mean, "average"))
      .map(
        beam.withName("format", (r, context) =>
          [format(context.window.lookup().start), r.station, r.average.toFixed(2)].join("\t")
        ),
        { window: pardo.windowParam() }
      )
      .apply(beam.windowInto(beam.globalWindows()))
      .apply(beam.groupBy((line: string) => "all")) // groupGlobally loses the values
      .map(beam.withName("write", (group) => writeLines(output, [...group.value].sort())));
});
