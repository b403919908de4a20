package fnapi

import (
	"fmt"
	"time"

	fnpb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/fnexecution_v1"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/lintelrun/lintel/fnapi/data"
)

const (
	// logQueue is how many entries of a harness may wait for Worker.Log, and
	// logQueueBytes how long they may be together; one may always wait.
	logQueue      = 1024
	logQueueBytes = 1 << 20
	// logLinger is how long a harness that was closed may take to end its logging
	// stream, whose entries nobody hears any more. Java does so within a second of
	// the end of its control stream, and takes it for a failure if we are first.
	logLinger = 5 * time.Second
)

type loggingService struct {
	fnpb.UnimplementedBeamFnLoggingServer
	s *Server
}

// Logging takes the log entries of a harness. It never stops reading, as an
// unread logging stream would come to block the SDK, and it outlives the
// control stream so that the last words of a failing harness are heard.
func (l loggingService) Logging(stream fnpb.BeamFnLogging_LoggingServer) error {
	h, err := l.s.harness(stream.Context())
	if err != nil {
		return err
	}
	ended := make(chan error, 1)
	l.s.loops.Go(func() { ended <- h.readLogs(stream) })
	select {
	case err := <-ended:
		return statusOf(err)
	case <-h.closed:
	}
	select {
	case err := <-ended:
		return statusOf(err)
	case <-time.After(logLinger):
		return nil
	}
}

func (h *Harness) readLogs(stream fnpb.BeamFnLogging_LoggingServer) error {
	for {
		list := new(fnpb.LogEntry_List)
		if err := data.RecvProto(stream, list); err != nil {
			return err
		}
		if h.worker.Log == nil {
			continue
		}
		for _, entry := range list.GetLogEntries() {
			h.queueLog(entry)
		}
	}
}

// queueLog leaves an entry to deliverLogs, or drops it if too much waits there.
func (h *Harness) queueLog(entry *fnpb.LogEntry) {
	size := logBytes(entry)
	if waiting := h.logsWaiting.Add(size); waiting <= logQueueBytes || waiting == size {
		select {
		case h.logs <- entry:
			return
		default:
		}
	}
	h.logsWaiting.Add(-size)
	h.logsMissed.Add(1)
}

func logBytes(entry *fnpb.LogEntry) int64 {
	return int64(len(entry.GetMessage()) + len(entry.GetTrace()))
}

// deliverLogs calls Worker.Log until the harness is closed and the queue is empty.
func (h *Harness) deliverLogs() {
	for {
		select {
		case entry := <-h.logs:
			h.deliverLog(entry)
			continue
		default:
		}
		select {
		case entry := <-h.logs:
			h.deliverLog(entry)
		case <-h.closed:
			h.reportMissedLogs()
			return
		}
	}
}

func (h *Harness) deliverLog(entry *fnpb.LogEntry) {
	h.reportMissedLogs()
	h.worker.Log(entry)
	h.logsWaiting.Add(-logBytes(entry))
}

func (h *Harness) reportMissedLogs() {
	if n := h.logsMissed.Swap(0); n > 0 {
		h.worker.Log(&fnpb.LogEntry{
			Severity:    fnpb.LogEntry_Severity_WARN,
			Timestamp:   timestamppb.Now(),
			Message:     fmt.Sprintf("%d log entries of harness %s came too fast and were dropped", n, h.id),
			LogLocation: "lintel/fnapi",
		})
	}
}
