package spillfile

import (
	"errors"
	"io"
	"os"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/lintelrun/lintel/internal/fault"
)

func TestCopyTellsReadingFromWriting(t *testing.T) {
	f, err := Copy(t.TempDir(), strings.NewReader("data"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	b := make([]byte, 4)
	if _, err := f.ReadAt(b, 0); err != nil || string(b) != "data" {
		t.Errorf("%q, %v", b, err)
	}
	broken := errors.New("the store is gone")
	if _, err := Copy(t.TempDir(), iotest.ErrReader(broken)); !errors.Is(err, broken) || strings.Contains(err.Error(), "spilled data") {
		t.Errorf("reading: %v", err)
	}
	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		t.Skip(err) // not Linux
	}
	defer full.Close()
	if _, err := io.Copy(explained{full, "/data/spill"}, strings.NewReader("data")); fault.ClassOf(err) != fault.Retryable || !strings.Contains(err.Error(), "free some space") {
		t.Errorf("writing: %v", err)
	}
}
