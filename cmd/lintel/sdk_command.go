package main

import (
	"path/filepath"
	"slices"
	"strings"
)

// complete returns a command line with the flags that it lacks, each where its
// program looks for flags of the pipeline. Flags that are there stay as they are.
func (k *sdk) complete(command []string, endpoint string) []string {
	switch base := filepath.Base(command[0]); {
	case k.name == "go":
		at := goProgram(command)
		return slices.Insert(slices.Clone(command), at, k.missing(command[at:], endpoint)...)
	case base == "mvn" || base == "mvnw":
		return k.inside(command, "-Dexec.args=", endpoint)
	case base == "gradle" || base == "gradlew":
		return k.inside(command, "--args=", endpoint)
	case slices.Contains([]string{"npm", "pnpm"}, base) && !slices.Contains(command, "--"):
		command = append(slices.Clone(command), "--")
	}
	return append(slices.Clone(command), k.missing(command, endpoint)...)
}

// inside completes flags that travel in one argument, parted by spaces.
func (k *sdk) inside(command []string, prefix, endpoint string) []string {
	command = slices.Clone(command)
	at := slices.IndexFunc(command, func(a string) bool { return strings.HasPrefix(a, prefix) })
	if at < 0 {
		return append(command, prefix+strings.Join(k.missing(nil, endpoint), " "))
	}
	given := strings.Fields(command[at][len(prefix):])
	if missing := k.missing(given, endpoint); len(missing) > 0 {
		command[at] = strings.TrimSuffix(command[at], " ") + " " + strings.Join(missing, " ")
	}
	return command
}

// goFlags are those of go run that take their value as the next word.
var goFlags = []string{"C", "p", "asmflags", "buildmode", "compiler", "coverpkg", "covermode", "exec", "gccgoflags", "gcflags",
	"installsuffix", "ldflags", "mod", "modfile", "overlay", "pgo", "pkgdir", "tags", "toolexec"}

// goProgram returns where the flags of a Go program begin in a command line. Go
// reads no flag after the first word that is none, so ours come before all others.
func goProgram(command []string) int {
	run := slices.Index(command, "run")
	if run < 1 || filepath.Base(command[run-1]) != "go" {
		return 1
	}
	at := run + 1
	for at < len(command) && strings.HasPrefix(command[at], "-") {
		if slices.Contains(goFlags, strings.TrimLeft(command[at], "-")) {
			at++
		}
		at++
	}
	if at >= len(command) {
		return len(command)
	}
	if !strings.HasSuffix(command[at], ".go") {
		return at + 1
	}
	for at < len(command) && strings.HasSuffix(command[at], ".go") {
		at++
	}
	return at
}
