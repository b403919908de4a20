package jobservice

import (
	"context"
	"fmt"
	"log/slog"
	"strings"

	jobpb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/jobmanagement_v1"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/lintelrun/lintel/jobservice/internal/rpcstatus"
	"github.com/lintelrun/lintel/portable/options"
)

// An update is a job that takes the place of a running one. At Prepare it is refused if it can't go on with that job's
// state. When it is run it is STARTING until the other job has been stopped with a savepoint, and is
// UPDATED; then it begins with that. Its own record says so before, so that a server that is
// killed meanwhile goes on with one of the two.

// replacedBy returns the running job that one with such a name and options takes the place of, nil if
// it takes that of none.
func (s *Service) replacedBy(name string, given *structpb.Struct) (*job, error) {
	o, err := options.Read(given)
	if err != nil || !o.Updates() {
		return nil, err
	}
	if o.UpdateJob != "" {
		j, err := s.job(o.UpdateJob)
		if err != nil {
			return nil, err
		}
		if state := j.summary().State; state != jobpb.JobState_RUNNING {
			return nil, rpcstatus.Errorf(codes.FailedPrecondition, "job %s is %v: only a running job can be updated; a job that was stopped with a savepoint goes on by pipeline option restore_from", j.id, state)
		}
		return j, nil
	}
	var ids []string
	for _, sum := range s.Jobs() {
		if sum.Name == name && sum.State == jobpb.JobState_RUNNING {
			ids = append(ids, sum.ID)
		}
	}
	switch len(ids) {
	case 1:
		return s.job(ids[0])
	case 0:
		return nil, rpcstatus.Errorf(codes.FailedPrecondition, "there is no running job %q to update; pipeline option job_name says which, or update_job by its id", name)
	}
	return nil, rpcstatus.Errorf(codes.FailedPrecondition, "%d running jobs are called %q: say by pipeline option update_job which is to be updated: %s", len(ids), name, strings.Join(ids, ", "))
}

// checkUpdate tells whether a job can go on with the state of a running one.
func (s *Service) checkUpdate(old *job, next Job) error {
	running := s.spec(old)
	if running.Plan == nil {
		return rpcstatus.Errorf(codes.FailedPrecondition, "job %s has just ended", old.id)
	}
	if !s.executor.Survives(running) {
		return rpcstatus.Errorf(codes.FailedPrecondition, "job %s takes no checkpoints, so it can't be stopped with a savepoint", old.id)
	}
	return s.executor.CheckUpdate(running, next)
}

// predecessor returns the job whose place one that is run takes, nil if it takes that of none, and notes the savepoint
// with which that is to be stopped.
func (s *Service) predecessor(j *job) (*job, error) {
	if j.replaces == "" {
		return nil, nil
	}
	old, err := s.job(j.replaces)
	if err != nil {
		return nil, err
	}
	if err := s.checkUpdate(old, s.spec(j)); err != nil {
		return nil, err
	}
	o, err := options.Read(j.options)
	if err != nil {
		return nil, err
	}
	uri, err := s.executor.SavepointURI(old.id, o.UpdateSavepoint)
	if err != nil {
		return nil, err
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	j.restoreFrom = uri
	return old, nil
}

// takePlace stops a job for another, which then begins with its savepoint. That is not given up where the other is
// cancelled meanwhile.
func (s *Service) takePlace(j, old *job) error {
	sink{j}.Message(slog.LevelInfo, fmt.Sprintf("job %s, whose place this one takes, is being stopped with the savepoint %s", old.id, j.restoreFrom))
	_, err := s.stopJob(context.Background(), old, newStopping(j.restoreFrom, false, j.id))
	if err != nil {
		return fmt.Errorf("job %s could not be stopped with a savepoint, and was not updated: %w", old.id, err)
	}
	sink{j}.Message(slog.LevelInfo, fmt.Sprintf("job %s is stopped, and this one takes its place", old.id))
	return nil
}

// notReplaced says what to do about a job that could not begin with the savepoint of the one that was stopped for it.
func (j *job) notReplaced(err error) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.replaces == "" || newestComplete(j.checkpoints) > 0 {
		return err
	}
	return fmt.Errorf("%w\njob %s was stopped for this one, with the savepoint %s: go on from that, by pipeline option restore_from, with this pipeline or the one before", err, j.replaces, j.restoreFrom)
}

// mayReplace tells whether a job that an earlier process has begun to put in another's place can go on: the other
// must have been stopped for it. It is called before the service takes jobs.
func (s *Service) mayReplace(id string) error {
	old := s.jobs[id]
	if old == nil { // it takes the place of none, or of one that is forgotten
		return nil
	}
	if state := old.summary().State; state != jobpb.JobState_UPDATED {
		return fmt.Errorf("job %s, whose place it was to take, had not been stopped by then; it is %v, and was not updated", id, state)
	}
	return nil
}
