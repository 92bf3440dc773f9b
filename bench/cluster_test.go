package main

import (
	"context"
	"net"
	"path/filepath"
	"strings"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
)

// speaker is a member as the askers of a leader see it, and one that takes writes after some refusals.
type speaker struct {
	pb.UnimplementedMaintenanceServer
	pb.UnimplementedKVServer
	id, leader uint64
	learner    bool
	put        func() error
}

func (s *speaker) Status(context.Context, *pb.StatusRequest) (*pb.StatusResponse, error) {
	return &pb.StatusResponse{Header: &pb.ResponseHeader{MemberId: s.id}, Leader: s.leader, IsLearner: s.learner}, nil
}

func (s *speaker) Put(context.Context, *pb.PutRequest) (*pb.PutResponse, error) {
	return &pb.PutResponse{}, s.put()
}

// serve gives the speaker an address until the test ends.
func serve(t *testing.T, s *speaker) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	srv := grpc.NewServer()
	pb.RegisterMaintenanceServer(srv, s)
	pb.RegisterKVServer(srv, s)
	served := make(chan error, 1)
	go func() { served <- srv.Serve(l) }() // ends with Stop
	t.Cleanup(func() {
		srv.Stop()
		if err := <-served; err != nil {
			t.Errorf("serve: %v", err)
		}
	})
	return l.Addr().String()
}

func TestAskLeader(t *testing.T) {
	for _, c := range []struct {
		name    string
		members []speaker
		want    int // -1: no answer yet
	}{
		{"all agree", []speaker{{id: 1, leader: 3}, {id: 2, leader: 3}, {id: 3, leader: 3}}, 2},
		{"survivors have not noticed the leader's death", []speaker{{id: 1, leader: 3}, {id: 2, leader: 3}}, -1},
		{"survivors have a new one", []speaker{{id: 1, leader: 1}, {id: 2, leader: 1}}, 0},
		{"nobody leads", []speaker{{id: 1}, {id: 2}}, -1},
		{"one has not heard", []speaker{{id: 1, leader: 1}, {id: 2, leader: 3}, {id: 3, leader: 1}}, -1},
		{"one does not vote yet", []speaker{{id: 1, leader: 1}, {id: 2, leader: 1, learner: true}}, -1},
	} {
		t.Run(c.name, func(t *testing.T) {
			var conns []*grpc.ClientConn
			for i := range c.members {
				conn, err := dial(serve(t, &c.members[i]))
				if err != nil {
					t.Fatal(err)
				}
				defer conn.Close()
				conns = append(conns, conn)
			}
			got, err := askLeader(t.Context(), conns)
			if c.want < 0 && err == nil || c.want >= 0 && (err != nil || got != c.want) {
				t.Errorf("askLeader = %d, %v; want %d", got, err, c.want)
			}
		})
	}
}

func TestPlacesOfOneClusterKnowEachOther(t *testing.T) {
	dir := t.TempDir()
	places, err := newPlaces(filepath.Join(dir, "a"), filepath.Join(dir, "b"), filepath.Join(dir, "c"))
	if err != nil {
		t.Fatal(err)
	}
	ports := map[int]bool{}
	for i, at := range places {
		if at.initial != places[0].initial || !strings.Contains(at.initial, at.name+"="+at.peerURL()) {
			t.Errorf("place %d: initial cluster %q lacks %s=%s, or differs from the first's", i, at.initial, at.name, at.peerURL())
		}
		ports[at.client], ports[at.peer] = true, true
	}
	if len(ports) != 2*len(places) || strings.Count(places[0].initial, ",") != len(places)-1 {
		t.Errorf("%d ports and initial cluster %q of %d places", len(ports), places[0].initial, len(places))
	}
}

func TestUsageOfSeveralIsTheirSum(t *testing.T) {
	a := usage{cpu: 1, written: 2, rss: 3, anon: 4, peak: 5}
	b := usage{cpu: 10, written: 20, rss: 30, anon: 40, peak: 50}
	if got, want := a.plus(b), (usage{cpu: 11, written: 22, rss: 33, anon: 44, peak: 55}); got != want {
		t.Errorf("plus = %+v, want %+v", got, want)
	}
}
