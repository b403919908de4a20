package main

import (
	"context"
	"fmt"
	"time"

	jobpb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/jobmanagement_v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
)

// cancelLater cancels the job of a name when it has been known for so long.
func cancelLater(ctx context.Context, endpoint, name string, after time.Duration) error {
	conn, err := grpc.NewClient(endpoint, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return err
	}
	defer conn.Close()
	client := jobpb.NewJobServiceClient(conn)
	for ; ; time.Sleep(time.Millisecond) {
		jobs, err := client.GetJobs(ctx, &jobpb.GetJobsRequest{})
		if err != nil {
			return fmt.Errorf("looking for job %s: %w", name, err)
		}
		for _, j := range jobs.GetJobInfo() {
			if j.GetJobName() == name {
				time.Sleep(after)
				_, err := client.Cancel(ctx, &jobpb.CancelJobRequest{JobId: j.GetJobId()})
				return err
			}
		}
	}
}
