// What the examples' main functions share: flags, runners and how a program ends.
import * as fs from "fs";
import * as os from "os";
import * as path from "path";
import * as yargs from "yargs";
import * as beam from "apache-beam";
import { TYPESCRIPT_DEFAULT_ENVIRONMENT_URN } from "apache-beam/internal/environments";
import { Pipeline, ProcessPayload } from "apache-beam/proto/beam_runner_api";
import { Runner } from "apache-beam/runners/runner";

/** Flags of the examples; all others, such as --runner, are the SDK's. */
export interface Flags {
  input: string;
  output: string;
  [name: string]: any;
}

/**
 * Runs the pipeline that build makes from the command line's flags, prints what it has
 * written to flags.output, and ends the program.
 */
export function main(build: (flags: Flags) => (root: beam.Root) => void) {
  run(build).then(
    () => process.exit(0),
    (error) => {
      console.error(error);
      process.exit(1);
    }
  );
}

async function run(build: (flags: Flags) => (root: beam.Root) => void) {
  const flags: Flags = { jobName: path.basename(process.argv[1], ".js"), ...(yargs.argv as any) };
  if (!flags.input) throw new Error("--input is needed");
  flags.input = path.resolve(flags.input);
  const scratch = fs.mkdtempSync(path.join(os.tmpdir(), "lintel-example-"));
  flags.output = flags.output ? path.resolve(flags.output) : path.join(scratch, "output.txt");
  try {
    const pipeline = build(flags);
    if (!flags.verbose) {
      // With LOOPBACK the worker is in this program, and tells of every instruction.
      console.log = console.debug = console.info = console.warn = () => {};
    }
    await runner(flags).run(pipeline);
    process.stdout.write(fs.readFileSync(flags.output, "utf8"));
  } finally {
    fs.rmSync(scratch, { recursive: true });
  }
}

function runner(flags: Flags): Runner {
  const chosen = beam.createRunner(flags);
  if (flags.environmentType !== "PROCESS") return chosen;
  if (!flags.processCommand) throw new Error("--processCommand is needed: what starts a worker");
  return new ProcessRunner(chosen, flags.processCommand);
}

/**
 * Has workers started by a command on the server's machine. The SDK knows LOOPBACK and
 * Docker images only, and leaves environments alone that are of another kind.
 */
class ProcessRunner extends Runner {
  constructor(private runner: Runner, private command: string) {
    super();
  }

  async runPipeline(pipeline: Pipeline, options?: any) {
    for (const environment of Object.values(pipeline.components!.environments)) {
      if (environment.urn === TYPESCRIPT_DEFAULT_ENVIRONMENT_URN) {
        environment.urn = "beam:env:process:v1";
        environment.payload = ProcessPayload.toBinary({ os: "", arch: "", command: path.resolve(this.command), env: {} });
      }
    }
    return this.runner.runPipeline(pipeline, options);
  }
}
