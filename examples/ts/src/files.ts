// What the pipelines do with files. Workers read and write them too, so they must see
// the same folders as the program that submits.
import * as fs from "fs";
import * as path from "path";
import { requireForSerialization } from "apache-beam/serialization";

/** The files under dir whose names end in ext, as absolute paths. */
export function listFiles(dir: string, ext: string): string[] {
  return fs.readdirSync(dir, { withFileTypes: true }).flatMap((entry) => {
    const file = path.resolve(dir, entry.name);
    if (entry.isDirectory()) return listFiles(file, ext);
    return entry.isFile() && file.endsWith(ext) ? [file] : [];
  });
}

export function readLines(file: string): string[] {
  const lines = fs.readFileSync(file, "utf8").split(/\r?\n/);
  if (lines[lines.length - 1] === "") lines.pop(); // what follows the last line end
  return lines;
}

export function writeLines(file: string, lines: string[]) {
  fs.writeFileSync(file, lines.map((line) => line + "\n").join(""));
}

// The SDK sends functions to workers as source text, which can't hold Node's own. With
// this, workers load this module instead, from the path that it has here.
requireForSerialization(__filename, exports);
