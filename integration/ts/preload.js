// mocha --require: lets the SDK's own tests, unmodified, submit to JOB_ENDPOINT.
// Whatever runner a test asks for, it gets the SDK's PortableRunner with LOOPBACK.
"use strict";
const path = require("path");

const { JOB_ENDPOINT: jobEndpoint, PARALLELISM } = process.env;
const sdk = path.join(process.cwd(), "node_modules/apache-beam/dist/src/apache_beam");
const beam = require(path.join(sdk, "index.js")); // first: its modules import each other
const { PortableRunner } = require(path.join(sdk, "runners/portable_runner/runner.js"));

global.submittedJobs = 0;

function runner(options) {
  const r = new PortableRunner({
    environmentType: "LOOPBACK",
    parallelism: Number(PARALLELISM),
    ...options,
    jobEndpoint,
  });
  const submit = r.runPipelineWithProto.bind(r);
  r.runPipelineWithProto = (...args) => {
    global.submittedJobs++;
    return submit(...args);
  };
  return r;
}

for (const [file, names] of Object.entries({
  "runners/direct_runner.js": ["directRunner"],
  "runners/runner.js": ["createRunner", "defaultRunner", "loopbackRunner"],
  "runners/universal.js": ["universalRunner"],
})) {
  const module = require(path.join(sdk, file));
  for (const name of names) module[name] = runner;
}
if (beam.createRunner !== runner) {
  Object.defineProperty(beam, "createRunner", { value: runner, configurable: true, enumerable: true });
}
