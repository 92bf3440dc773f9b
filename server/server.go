package server

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strconv"
	"sync"
	"syscall"
	"time"

	"github.com/hashicorp/raft"
	"google.golang.org/grpc"

	"limpet/api"
	"limpet/api/gateway"
	"limpet/api/ops"
	"limpet/certs"
	"limpet/cluster"
	"limpet/discovery"
	"limpet/lease"
	"limpet/login"
	"limpet/memtune"
	"limpet/peer"
	"limpet/raftfsm"
	"limpet/sqlstore"
	"limpet/watch"
)

const (
	// stopPatience is how long requests under way get to finish when the
	// member stops.
	stopPatience = 500 * time.Millisecond
	// handOverPatience bounds the hand-over of leadership at the end.
	handOverPatience = time.Second
)

// Server is a running member.
type Server struct {
	cfg     Config
	log     *slog.Logger
	dir     *dataDir
	vault   *vault // of the tokens; nil: there are none
	store   *sqlstore.Store
	gossip  *discovery.Gossip // nil: there is none
	beacon  *discovery.Beacon // nil: there is none
	local   *cluster.Local
	port    *peer.Port
	notices peer.Notices // of port and gossip
	raft    *raft.NetworkTransport
	node    *raftfsm.Node
	hub     *watch.Hub
	space   *space
	lessor  *lease.Lessor
	desk    *login.Desk
	api     *api.Server
	streams *api.Streams
	metrics *ops.Metrics
	health  *ops.Health
	gateway *gateway.Gateway // nil: there is none
	pulse   *pulse

	grpc     *grpc.Server
	grpcOnce sync.Once
	http     []*http.Server
	clients  *splitter
	web      *splitter      // for clients' HTTP; clients, unless it has URLs of its own
	faces    []*face        // what the HTTP listeners serve
	extra    *splitter      // the metrics listeners; nil: there are none
	peers    []net.Listener // for the other members
	given    *certs.Guard   // of certificates for the peer port; nil: none were given
	shown    *certs.Guard   // of the client ports; nil: they speak no TLS
	turned   peer.Notices   // of clients turned away, so that the log is not theirs

	cancel  context.CancelFunc // ends the background work
	wg      sync.WaitGroup
	failed  chan error    // why the member cannot go on
	built   chan struct{} // closed once api is there
	ending  sync.RWMutex  // held for writing while ended is closed
	ended   chan struct{} // closed when Stop begins
	serving chan struct{} // closed once the member serves clients
	opened  chan struct{} // closed once it serves any, of what needs no leader at least
	news    chan struct{} // holds one: gossip has changed

	stopOnce sync.Once
	stopErr  error
}

// Start starts a member and returns once it serves. cfg must be valid. On
// error nothing is left open.
func Start(ctx context.Context, cfg Config, log *slog.Logger) (*Server, error) {
	s := &Server{
		cfg: cfg, log: log, metrics: ops.NewMetrics(), failed: make(chan error, 4),
		built: make(chan struct{}), ended: make(chan struct{}), serving: make(chan struct{}), opened: make(chan struct{}), news: make(chan struct{}, 1),
	}
	stages := []struct {
		doing string
		run   func(context.Context) error
	}{
		{"making a cluster of this member alone", s.forceNewCluster},
		{"opening ports", s.listen}, // when one is taken, the data directory stays untouched
		{"opening the data directory", s.openDir},
		{"asking the DNS for the members", s.findFounders},
		{"opening the ports for other members", s.openPeers}, // it can be asked, and ask
		{"opening the ports for clients", s.serveHTTPFaces},  // whoever looks sees what it waits for
		{"opening the database and the log", s.enter},        // it belongs to a cluster, and has its state
		{"waiting: for a leader, and to have caught up with it", s.awaitReady},
		{"beginning to serve", s.serve},
	}
	for _, stage := range stages {
		s.does(stage.doing)
		if err := stage.run(ctx); err != nil {
			return nil, errors.Join(err, s.Stop())
		}
	}
	s.cfg.Doing.set(func() string { return "" })
	return s, nil
}

// listen opens the ports, unless there is a reason not to start at all.
func (s *Server) listen(context.Context) error {
	if err := inspectDataDir(s.cfg.DataDir); err != nil {
		return err
	}
	if err := s.cfg.readTokens(s.log); err != nil {
		return err
	}
	var err error
	s.desk, err = login.Open(s.cfg.Login, func(ctx context.Context, index uint64) error { return s.store.WaitApplied(ctx, index) })
	if err != nil {
		return err
	}
	if s.shown, err = s.cfg.clientGuard(s.log); err != nil {
		return err
	}
	var secure *tls.Config
	if s.shown != nil {
		secure = s.shown.Server()
	}
	if s.given, err = s.cfg.peerGuard(s.log); err != nil {
		return err
	}
	split := splitterConfig{s.metrics.Traffic, secure, s.rejected}
	clients, err := listenAll("listen-client-urls", s.cfg.ListenClientURLs, s.cfg.ReusePort)
	if err != nil {
		return err
	}
	s.clients = newSplitter(clients, split)
	s.web = s.clients
	web, err := listenAll("listen-client-http-urls", s.cfg.ListenClientHTTPURLs, s.cfg.ReusePort)
	if err != nil {
		return err
	}
	if len(web) > 0 {
		s.web = newSplitter(web, split)
	}
	extra, err := listenAll("listen-metrics-urls", s.cfg.ListenMetricsURLs, s.cfg.ReusePort)
	if err != nil {
		return err
	}
	if len(extra) > 0 {
		s.extra = newSplitter(extra, split)
	}
	s.peers, err = s.cfg.peerListeners()
	s.tellOfTLS()
	s.tellOfLimits()
	return err
}

// sensibleQuota is above what etcd advises for a database.
const sensibleQuota = 8 << 30

// tellOfLimits logs numbers that are not taken as they are, or are too large to be
// of use, as etcd does.
func (s *Server) tellOfLimits() {
	if cost := s.cfg.Login.Cost; cost < login.MinCost || cost > login.MaxCost {
		s.log.Warn("--bcrypt-cost is out of its bounds; the default is used", "given", cost, "min", login.MinCost, "max", login.MaxCost, "used", login.DefaultCost)
	}
	if s.cfg.QuotaBytes > sensibleQuota {
		s.log.Warn("--quota-backend-bytes is above what etcd advises: restarts and new members take long", "given", s.cfg.QuotaBytes, "advised", int64(sensibleQuota))
	}
}

// rejected hears of a client with which TLS came to nothing.
func (s *Server) rejected(remote net.Addr, err error) {
	s.metrics.Traffic.Rejected.Add(1)
	host, _, _ := net.SplitHostPort(remote.String()) // a socket file has none
	if !s.turned.Add(host, "") {
		return
	}
	level := slog.LevelWarn
	if errors.Is(err, io.EOF) || errors.Is(err, syscall.ECONNRESET) {
		level = slog.LevelDebug // one that only looks whether the port is open
	}
	s.log.Log(context.Background(), level, "rejected connection on client endpoint", "remote", remote.String(), "error", err)
}

func (s *Server) openDir(context.Context) (err error) {
	if s.dir, err = openDataDir(s.cfg.DataDir); err != nil {
		return err
	}
	s.warnOfOpenDir()
	if s.dir.id.Recovering != "" {
		return fmt.Errorf("limpet recover did not finish on %s: run it again", s.cfg.DataDir)
	}
	if s.cfg.NoFsync {
		s.log.Warn("--unsafe-no-fsync: writes are acknowledged before they are on the disk; a power cut may take them")
	}
	instead, err := s.dir.placeLog(s.cfg.WALDir)
	if err != nil {
		return err
	}
	if instead != "" {
		s.log.Warn("--wal-dir has no effect: the raft log stays where it was at the first start of this member", "folder", instead)
	}
	return s.openVault()
}

// serve begins to serve clients, if that has not begun.
func (s *Server) serve(context.Context) error {
	s.serveGRPC()
	if err := memtune.Settle(); err != nil {
		s.log.Debug("memory of the start was not given back", "error", err)
	}
	close(s.serving)
	s.log.Info("ready to serve client requests", "member", s.dir.now().MemberID, "cluster", strconv.FormatUint(s.clusterID(), 16),
		"name", s.local.Hello().Name, "client-urls", s.cfg.ListenClientURLs, "revision", s.store.Rev())
	return nil
}

// enter gets this member into its cluster, and opens what it has or is to
// have.
func (s *Server) enter(ctx context.Context) error {
	start, err := untilBroken(ctx, s, s.local.Enter)
	if err != nil {
		return err
	}
	if err := s.openState(start); err != nil {
		return err
	}
	s.local.Attach(s.node)
	if err := s.build(); err != nil {
		return err
	}
	if err := s.runBackground(); err != nil {
		return err
	}
	close(s.built)
	for _, f := range s.faces {
		f.show()
	}
	return nil
}

// untilBroken runs one step of the start, and ends it when the member turns out
// to be unable to go on.
func untilBroken[T any](ctx context.Context, s *Server, step func(context.Context) (T, error)) (T, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	done := make(chan struct{})
	defer close(done)
	// Owner: this call; ends with it.
	s.wg.Go(func() {
		select {
		case err := <-s.failed:
			cancel(err)
		case <-done:
		}
	})
	v, err := step(ctx)
	if cause := context.Cause(ctx); err != nil && cause != nil && !errors.Is(cause, context.Canceled) {
		err = cause
	}
	return v, err
}

// awaitReady waits until this member has caught up, and the cluster knows it as
// it is.
func (s *Server) awaitReady(ctx context.Context) error {
	_, err := untilBroken(ctx, s, func(ctx context.Context) (struct{}, error) {
		if err := s.awaitLeader(ctx); err != nil {
			return struct{}{}, err
		}
		if err := s.local.Reported(ctx); err != nil {
			return struct{}{}, fmt.Errorf("stopped before the member was ready: %w", err)
		}
		return struct{}{}, nil
	})
	return err
}

// awaitLeader waits until this member has caught up. When that takes long, it
// serves meanwhile what needs no leader.
func (s *Server) awaitLeader(ctx context.Context) error {
	alone := time.NewTicker(alonePatience(s.cfg.Election))
	defer alone.Stop()
	told := false
	for {
		select {
		case <-s.node.Ready():
			return nil
		case <-alone.C:
			told = s.serveAlone(told)
		case <-ctx.Done():
			return fmt.Errorf("stopped before the member was ready: %w", ctx.Err())
		}
	}
}

// serveAlone serves what needs no leader, if anything is known to be agreed on,
// and says once what that is; told: it has.
func (s *Server) serveAlone(told bool) bool {
	st := s.node.Status()
	switch {
	case s.store.Applied() > 0:
		if s.serveGRPC() {
			s.log.Warn("no leader: this member only serves serializable reads, of what it knows to be agreed on, until it finds one",
				"revision", s.store.Rev(), "index", s.store.Applied(), "not-known", st.LastIndex-min(st.LastIndex, s.store.Applied()))
		}
	case st.LastIndex > 1 && !told: // the first entry only names the members
		s.log.Warn("no leader: this member serves nothing until it finds one, as it does not know what of its log was agreed on", "not-known", st.LastIndex)
		return true
	}
	return told
}

// alonePatience is how long a member that has data waits for a leader before it
// serves what needs none: two elections.
func alonePatience(election time.Duration) time.Duration { return time.Second + 4*election }

// Rejoins reports whether a member that ended with err can take part again as a
// new one, after Stop, and prepares its data directory for that.
func Rejoins(err error, cfg Config, log *slog.Logger) bool {
	if !errors.Is(err, cluster.ErrRecovered) || !cfg.gossips() {
		return false
	}
	d, err := openDataDir(cfg.DataDir)
	if err == nil {
		err = errors.Join(d.setAside(), d.close())
	}
	if err != nil {
		log.Error("the old data cannot be set aside", "error", err)
		return false
	}
	log.Warn("the cluster was recovered without this member: it joins again as a new one; its old data is kept", "folder", d.file(d.id.Aside))
	return true
}

// Alive is nil while this member makes progress, or says what does not move. It is
// for one caller that asks again and again.
func (s *Server) Alive(ctx context.Context) error { return s.pulse.check(ctx) }

// Reload reads the files of TLS again. What cannot be read stays as it was; the log
// says so, and the error.
func (s *Server) Reload() error {
	var errs []error
	for _, g := range []*certs.Guard{s.shown, s.given} {
		if g != nil {
			errs = append(errs, g.Reread())
		}
	}
	return errors.Join(errs...)
}

// Failed yields an error when a listener dies while the member runs.
func (s *Server) Failed() <-chan error { return s.failed }

// Stop ends everything in the reverse order: streams are told, requests under
// way get a moment, what is applied is flushed. It is safe to call twice.
func (s *Server) Stop() error {
	s.stopOnce.Do(func() {
		s.ending.Lock()
		close(s.ended)
		s.ending.Unlock()
		s.stopErr = s.stop()
	})
	return s.stopErr
}

func (s *Server) stop() error {
	s.handOver()
	if s.streams != nil {
		s.streams.Stop()
	}
	if s.clients != nil {
		s.clients.close()
		s.web.close()
	}
	if s.extra != nil {
		s.extra.close()
	}
	s.stopServers()
	if s.gateway != nil {
		_ = s.gateway.Close()
	}
	if s.beacon != nil {
		_ = s.beacon.Close()
	}
	if s.cancel != nil {
		s.cancel()
	}
	var errs []error
	if s.store != nil {
		s.store.Interrupt()
	}
	if s.node != nil {
		errs = append(errs, s.node.Close())
	}
	if s.raft != nil {
		errs = append(errs, s.raft.Close())
	}
	if s.port != nil {
		errs = append(errs, s.port.Close())
	}
	closeAll(s.peers)
	if s.gossip != nil {
		errs = append(errs, s.gossip.Close())
	}
	s.wg.Wait()
	if s.store != nil {
		errs = append(errs, s.store.Close())
	}
	if s.dir != nil {
		errs = append(errs, s.dir.close())
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("stop: %w", err)
	}
	return nil
}

// handOver lets another member lead before this one goes: that is faster than
// having the others notice.
func (s *Server) handOver() {
	if s.node == nil || !s.node.Leading() || s.node.ReadsLocally() {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), handOverPatience)
	defer cancel()
	if err := s.node.HandOver(ctx, 0); err != nil {
		s.log.Warn("leadership could not be handed over; the others will notice", "error", err)
	}
}

func (s *Server) stopServers() {
	defer func() {
		for _, h := range s.http {
			_ = h.Close()
		}
	}()
	if s.grpc == nil {
		return
	}
	done := make(chan struct{})
	// Owner: this call; ends when the requests under way do, or Stop cuts them.
	go func() {
		s.grpc.GracefulStop()
		close(done)
	}()
	select {
	case <-done:
	case <-time.After(stopPatience):
		s.grpc.Stop()
		<-done
	}
}
