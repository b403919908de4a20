// A test of our own: what the client sees when its job is drained. The SDK has no source
// without end, so the elements take their time.
"use strict";
const assert = require("assert");
const { execFile } = require("child_process");
const path = require("path");

const sdk = path.join(process.cwd(), "node_modules/apache-beam/dist/src/apache_beam");
const beam = require(path.join(sdk, "index.js"));
const { JobState_Enum } = require(path.join(sdk, "proto/beam_job_api.js"));

function slow(element) {
  const end = Date.now() + 200;
  while (Date.now() < end);
  return element;
}
slow.__closure = () => ({ Date });

describe("Draining", () => {
  it("ends the client", async () => {
    const pipeline = (root) => root.apply(beam.create([...Array(20).keys()])).map(slow);
    const result = await beam.createRunner({}).runAsync(pipeline);
    const args = ["jobs", "drain", "--endpoint", process.env.JOB_ENDPOINT, result.jobId];
    while ((await result.getState()).state !== JobState_Enum.RUNNING) {
      await new Promise((r) => setTimeout(r, 50));
    }
    await new Promise((done, failed) =>
      execFile(process.env.LINTEL, args, (error) => (error ? failed(error) : done()))
    );
    assert.equal(await result.waitUntilFinish(), JobState_Enum.DRAINED);
  });
});
