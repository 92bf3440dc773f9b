//go:build linux

package scenario

import (
	"context"
	"fmt"
	"net"
	"strconv"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"

	"limpet/e2e/hosts"
)

// Member is one server of a Cluster, with a host and a data directory that outlive its restarts.
type Member struct {
	Name    string
	Host    *hosts.Host
	Disk    *hosts.Disk // nil if the Layout has none
	DataDir string
	Process *hosts.Process
	Conn    *grpc.ClientConn // for calls to this member alone, which are never tried again
	// ShortLog is the Layout's wish, for Program.Flags.
	ShortLog bool
	// Way is how the member comes into its cluster, where the story says so, for Program.Flags.
	Way []string

	cluster  *Cluster
	founding bool
}

// ClientURL is where clients on other hosts find the member.
func (m *Member) ClientURL() string { return "http://" + m.Host.Addr(ClientPort) }

// PeerURL is where other members find it.
func (m *Member) PeerURL() string { return "http://" + m.Host.Addr(PeerPort) }

// endpoint is the member's client address by name, for clients in the hub.
func (m *Member) endpoint() string { return net.JoinHostPort(m.Name, strconv.Itoa(ClientPort)) }

// Start starts the member and does not wait for it to serve.
func (m *Member) Start() {
	m.cluster.t.Helper()
	m.Process.Launch(m.cluster.Program.Flags(m, m.cluster.members, m.founding)...)
}

// Serves waits until the member answers a linearizable read.
func (m *Member) Serves() {
	m.cluster.t.Helper()
	m.cluster.Eventually(m.Name+" serves", func(ctx context.Context) error {
		m.mustRun()
		_, err := m.revision(ctx)
		return err
	})
}

// mustRun ends the story at once if the member has ended.
func (m *Member) mustRun() {
	m.cluster.t.Helper()
	if !m.Process.Alive() {
		m.cluster.t.Fatalf("%s has ended: %+v", m.Name, m.Process.WaitExit(time.Now(), attempt))
	}
}

// Stop ends the member with SIGTERM.
func (m *Member) Stop() {
	m.cluster.t.Helper()
	if exit := m.Process.Terminate(patience); !exit.Clean(m.cluster.Program.Kind) {
		m.cluster.t.Errorf("%s ended with %+v after SIGTERM", m.Name, exit)
	}
}

// Status is the member's own view of the cluster.
func (m *Member) Status(ctx context.Context) (*pb.StatusResponse, error) {
	return pb.NewMaintenanceClient(m.Conn).Status(ctx, &pb.StatusRequest{})
}

// revision is the store's, by a linearizable read.
func (m *Member) revision(ctx context.Context) (int64, error) {
	resp, err := pb.NewKVClient(m.Conn).Range(ctx, &pb.RangeRequest{Key: []byte("revision"), CountOnly: true})
	if err != nil {
		return 0, fmt.Errorf("read the revision at %s: %w", m.Name, err)
	}
	return resp.Header.Revision, nil
}
