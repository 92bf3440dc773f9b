//go:build linux

package scenario

import (
	"context"
	"fmt"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

// progressAtFollowers asks followers how far their watches are, as Kubernetes does for each
// consistent list: the answer must come, and reach what was acknowledged before.
func progressAtFollowers(t *testing.T, c *Cluster) {
	s := begin(t, c)
	leader := c.Leader(c.Members()...)
	for _, m := range c.Others(leader) {
		s.progress(leader, m)
	}
	s.end()
}

func (s *story) progress(leader, m *Member) {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), patience)
	defer cancel()
	stream, err := openWatch(ctx, m, &pb.WatchCreateRequest{Key: []byte("never written")})
	if err != nil {
		s.t.Fatalf("watch at %s: %v", m.Name, err)
	}
	acked, err := leader.revision(ctx)
	if err != nil {
		s.t.Fatal(err)
	}
	ask := &pb.WatchRequest{RequestUnion: &pb.WatchRequest_ProgressRequest{ProgressRequest: &pb.WatchProgressRequest{}}}
	s.Eventually(fmt.Sprintf("progress at %s to revision %d", m.Name, acked), func(context.Context) error {
		if err := stream.Send(ask); err != nil {
			return err
		}
		resp, err := stream.Recv()
		switch {
		case err != nil:
			return err
		case resp.WatchId != -1 || len(resp.Events) > 0:
			s.t.Fatalf("a progress request was answered with %v, want watch -1 and no events", resp)
		case resp.Header.Revision < acked:
			return fmt.Errorf("it is at %d", resp.Header.Revision)
		}
		return nil
	})
}
