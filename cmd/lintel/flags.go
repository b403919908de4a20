package main

import (
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
)

// choice is a flag with few possible values.
type choice struct {
	value    string
	possible []string
}

func (c *choice) String() string { return c.value }
func (c *choice) Type() string   { return strings.Join(c.possible, "|") }
func (c *choice) Set(s string) error {
	if !slices.Contains(c.possible, s) {
		return fmt.Errorf("want one of %s", strings.Join(c.possible, ", "))
	}
	c.value = s
	return nil
}

// choiceFlag adds a flag whose first possible value is the default.
func choiceFlag(cmd *cobra.Command, name, short, help string, possible ...string) *choice {
	c := &choice{value: possible[0], possible: possible}
	cmd.Flags().VarP(c, name, short, help)
	err := cmd.RegisterFlagCompletionFunc(name, cobra.FixedCompletions(possible, cobra.ShellCompDirectiveNoFileComp))
	if err != nil {
		panic(err) // the flag was added above
	}
	return c
}

func outputFlag(cmd *cobra.Command) *choice {
	return choiceFlag(cmd, "output", "o", "output format", "text", "json")
}

func printJSON(w io.Writer, v any) error {
	b, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return err
	}
	_, err = w.Write(append(b, '\n'))
	return err
}

// size is a flag for a number of bytes: 512M, 2GiB, 1000000.
type size int64

func asSize(n int64) string { return (*size)(&n).String() }

var sizeUnits = []string{"", "K", "M", "G", "T"}

func (s *size) Type() string { return "bytes" }

func (s *size) String() string {
	n, unit := int64(*s), 0
	for n != 0 && n%1024 == 0 && unit < len(sizeUnits)-1 {
		n, unit = n/1024, unit+1
	}
	return strconv.FormatInt(n, 10) + sizeUnits[unit]
}

func (s *size) Set(text string) error {
	number := strings.TrimRight(text, "KMGTiBkb")
	unit := strings.TrimSuffix(strings.TrimSuffix(strings.ToUpper(text[len(number):]), "B"), "I")
	power := slices.Index(sizeUnits, unit)
	n, err := strconv.ParseInt(number, 10, 64)
	if err != nil || power < 0 || n < 0 || n > (1<<62)>>(10*power) {
		return fmt.Errorf("want a number of bytes such as 512M or 2G")
	}
	*s = size(n << (10 * power))
	return nil
}
