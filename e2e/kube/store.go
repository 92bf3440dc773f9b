package kube

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"strings"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// storeStartDeadline bounds a start, log replay included. It is a limit for
// hung starts, not a measure.
const storeStartDeadline = 60 * time.Second

// Store is one member, started with flags that limpet and etcd share. It keeps
// its ports and its data across Kill, Stop and Start.
type Store struct {
	Kind     StoreKind
	Endpoint string // client URL
	Client   *clientv3.Client

	bin     string
	log     string
	args    []string
	process *Process
}

// NewStore prepares a store with its data below dir; Start starts it.
func NewStore(b Binaries, dir string) (*Store, error) {
	ports, err := FreePorts(2)
	if err != nil {
		return nil, err
	}
	client := fmt.Sprintf("http://127.0.0.1:%d", ports[0])
	peer := fmt.Sprintf("http://127.0.0.1:%d", ports[1])
	s := &Store{
		Kind:     b.StoreKind,
		Endpoint: client,
		bin:      b.Store,
		log:      filepath.Join(dir, string(b.StoreKind)+".log"),
		args: []string{
			"--name=one",
			"--data-dir=" + filepath.Join(dir, "data"),
			"--listen-client-urls=" + client,
			"--advertise-client-urls=" + client,
			"--listen-peer-urls=" + peer,
			"--initial-advertise-peer-urls=" + peer,
			"--initial-cluster=one=" + peer,
			// kubeadm and k3s both set this; etcd's own default is ten minutes.
			"--watch-progress-notify-interval=5s",
		},
	}
	if s.Kind == Limpet {
		s.args = append([]string{"server"}, s.args...)
	}
	s.Client, err = clientv3.New(clientv3.Config{Endpoints: []string{client}, DialTimeout: 5 * time.Second})
	return s, err
}

// Start starts the store and waits until it calls itself healthy.
func (s *Store) Start(ctx context.Context) error {
	if err := s.Launch(); err != nil {
		return err
	}
	return Until(ctx, storeStartDeadline, s.Healthy)
}

// Launch starts the store and does not wait for it.
func (s *Store) Launch() error {
	process, err := StartProcess(string(s.Kind), s.log, nil, s.bin, s.args...)
	if err != nil {
		return err
	}
	s.process = process
	return nil
}

// Healthy asks the store's /health.
func (s *Store) Healthy(ctx context.Context) error {
	if !s.process.Alive() {
		return fmt.Errorf("%s %w:\n%s", s.Kind, errExited, s.process.Tail(4<<10))
	}
	body, err := s.get(ctx, "/health")
	if err == nil && !bytes.Contains(body, []byte(`"true"`)) {
		err = fmt.Errorf("/health says %s", body)
	}
	return err
}

// Kill is a power cut for the store.
func (s *Store) Kill() { s.process.Kill() }

// Stop is an orderly end; etcd re-raises the signal, limpet exits 0.
func (s *Store) Stop() error { return s.process.Stop(20 * time.Second) }

// Close ends the store for good.
func (s *Store) Close() error {
	err := s.Client.Close()
	if s.process != nil {
		s.process.Kill()
	}
	return err
}

// get fetches one page of the store's HTTP face.
func (s *Store) get(ctx context.Context, path string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, s.Endpoint+path, nil)
	if err != nil {
		return nil, err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err == nil && response.StatusCode != http.StatusOK {
		err = fmt.Errorf("GET %s: %s: %s", path, response.Status, body)
	}
	return body, err
}

// Metrics reads the store's counters.
func (s *Store) Metrics(ctx context.Context) (Metrics, error) {
	body, err := s.get(ctx, "/metrics")
	if err != nil {
		return nil, err
	}
	return parseMetrics(body)
}

// Revisions reads, past every cache, the mod revision of each key below prefix;
// the names are given without it.
func (s *Store) Revisions(ctx context.Context, prefix string) (map[string]int64, error) {
	answer, err := s.Client.Get(ctx, prefix, clientv3.WithPrefix(), clientv3.WithKeysOnly())
	if err != nil {
		return nil, err
	}
	revisions := make(map[string]int64, len(answer.Kvs))
	for _, kv := range answer.Kvs {
		revisions[strings.TrimPrefix(string(kv.Key), prefix)] = kv.ModRevision
	}
	return revisions, nil
}
