package spillfile_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/lintelrun/lintel/internal/fault"
	"github.com/lintelrun/lintel/internal/spillfile"
)

func TestFilesHaveNoName(t *testing.T) {
	dir := t.TempDir()
	f, err := spillfile.Create(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteString("data"); err != nil {
		t.Error(err)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 0 {
		t.Errorf("in the folder is %v, %v", left, err)
	}
}

func TestErrorsSayWhereAndWhatToDo(t *testing.T) {
	missing := filepath.Join(t.TempDir(), "missing")
	if _, err := spillfile.Create(missing); fault.ClassOf(err) != fault.Retryable || !strings.Contains(fmt.Sprint(err), missing) {
		t.Errorf("error %v of class %v", err, fault.ClassOf(err))
	}
	for _, cause := range []error{syscall.ENOSPC, syscall.EDQUOT, syscall.EFBIG, syscall.EIO} {
		err := spillfile.Error("/data/spill", "writing", &os.PathError{Op: "write", Path: "f", Err: cause})
		full := cause != syscall.EIO
		if got := strings.Contains(err.Error(), "free some space"); got != full || spillfile.Full(err) != full || !strings.Contains(err.Error(), "/data/spill") {
			t.Errorf("%v: %v, full %v", cause, err, spillfile.Full(err))
		}
	}
	if err := spillfile.Error("/data", "writing", nil); err != nil {
		t.Error(err)
	}
}
