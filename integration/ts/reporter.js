// mocha --reporter: writes results to the file RESULTS as tests end, and one line for
// each test that did not pass to file descriptor 3: the SDK floods the others.
"use strict";
const fs = require("fs");

module.exports = class {
  constructor(run) {
    const tests = [];
    let before = 0;
    const save = (ended) => fs.writeFileSync(process.env.RESULTS, JSON.stringify({ ended, tests }, null, 1));
    const add = (test, result, error) => {
      const jobs = global.submittedJobs - before;
      const r = { id: test.fullTitle(), result, jobs, ms: test.duration };
      if (error) r.cause = String(error.stack || error).slice(0, 2000);
      tests.push(r);
      save(false);
      if (result !== "pass") say(`${result}: ${r.id} ${(r.cause || "").split("\n")[0]}`);
    };
    run.on("test", () => (before = global.submittedJobs));
    run.on("pass", (t) => add(t, "pass"));
    run.on("fail", (t, e) => add(t, e.code === "ERR_MOCHA_TIMEOUT" ? "timeout" : "fail", e));
    run.on("pending", (t) => {
      before = global.submittedJobs;
      add(t, "skip");
    });
    run.on("end", () => {
      save(true);
      const count = (result, all) => all.filter((t) => t.result === result).length;
      const submitted = tests.filter((t) => t.jobs);
      say(
        `${tests.length} tests: ${count("pass", tests)} pass, ${count("fail", tests)} fail, ` +
          `${count("timeout", tests)} time out, ${count("skip", tests)} skip; ` +
          `${count("pass", submitted)} of ${submitted.length} that submit jobs pass`
      );
    });
  }
};

function say(line) {
  fs.writeSync(3, line + "\n");
}
