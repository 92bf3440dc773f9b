package s3

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"
)

const (
	accessKey = "board"
	secretKey = "a-secret-that-nobody-may-see"
	bucket    = "boards"
	patience  = 60 * time.Second
)

// programs are built once.
var programs = sync.OnceValues(func() (map[string]string, error) {
	repo, err := filepath.Abs("../..")
	if err != nil {
		return nil, err
	}
	bin := filepath.Join(repo, ".cache", "bin")
	if dir := os.Getenv("LIMPET_E2E_BIN"); dir != "" {
		bin = dir
	}
	out := map[string]string{"limpet": os.Getenv("LIMPET_BIN"), "versitygw": os.Getenv("VERSITYGW_BIN")}
	for name, from := range map[string][2]string{
		"limpet":    {repo, "."},
		"versitygw": {".", "github.com/versity/versitygw/cmd/versitygw"},
	} {
		if out[name] != "" {
			continue
		}
		out[name] = filepath.Join(bin, name)
		cmd := exec.Command("go", "build", "-o", out[name], from[1])
		cmd.Dir, cmd.Env = from[0], append(os.Environ(), "CGO_ENABLED=0")
		if text, err := cmd.CombinedOutput(); err != nil {
			return nil, fmt.Errorf("%s: %w\n%s", cmd, err, text)
		}
	}
	return out, nil
})

func program(t *testing.T, name string) string {
	t.Helper()
	all, err := programs()
	if err != nil {
		t.Fatal(err)
	}
	return all[name]
}

// freeAddr is a port of this machine that nobody has at the moment.
func freeAddr(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	return l.Addr().String()
}

// eventually waits until cond holds; what names it.
func eventually(t *testing.T, what string, cond func() bool) {
	t.Helper()
	within(t, patience, what, cond)
}

// byAndBy waits for what a schedule does, too, which comes once a minute at most.
func byAndBy(t *testing.T, what string, cond func() bool) {
	t.Helper()
	within(t, 3*time.Minute+patience, what, cond)
}

func within(t *testing.T, patience time.Duration, what string, cond func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	for !cond() {
		select {
		case <-ctx.Done():
			t.Fatalf("in %v never true: %s", patience, what)
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// cleanEnv is the environment without what says how the tests run.
func cleanEnv() []string {
	return slices.DeleteFunc(os.Environ(), func(kv string) bool { return strings.HasPrefix(kv, "LIMPET_") })
}

// process is one that ends with the test.
type process struct {
	*exec.Cmd
	ended chan struct{}
	log   string // its output
}

func launch(t *testing.T, name, path string, args ...string) *process {
	t.Helper()
	log, err := os.CreateTemp(t.TempDir(), name)
	if err != nil {
		t.Fatal(err)
	}
	p := &process{exec.Command(path, args...), make(chan struct{}), log.Name()}
	p.Stdout, p.Stderr, p.Env = log, log, cleanEnv()
	if slices.Contains(args, "--s3-bucket") {
		p.Env = append(p.Env, "LIMPET_S3_SECRET_KEY="+secretKey)
	}
	if err := p.Start(); err != nil {
		t.Fatal(err)
	}
	// Owner: the test; ends with the process.
	go func() {
		_ = p.Wait()
		_ = log.Close()
		close(p.ended)
	}()
	t.Cleanup(func() {
		p.kill()
		if t.Failed() {
			text, _ := os.ReadFile(p.log)
			t.Logf("%s said\n%s", name, text[max(0, len(text)-4000):])
		}
	})
	return p
}

func (p *process) kill() {
	_ = p.Process.Kill()
	<-p.ended
}

// store is the real one, with one bucket, and a line to it.
type store struct {
	*line
	t      *testing.T
	at     string // past the line
	gate   *process
	args   []string
	client *minio.Client
}

func newStore(t *testing.T) *store {
	t.Helper()
	s := &store{t: t, at: freeAddr(t)}
	meta := t.TempDir()
	s.args = []string{"--quiet", "--access", accessKey, "--secret", secretKey, "--port", s.at, "posix", "--sidecar", meta, t.TempDir()}
	s.start()
	var err error
	s.client, err = minio.New(s.at, &minio.Options{Creds: credentials.NewStaticV4(accessKey, secretKey, "")})
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "the store takes a bucket", func() bool { return s.client.MakeBucket(t.Context(), bucket, minio.MakeBucketOptions{}) == nil })
	s.line = newLine(t, s.at)
	return s
}

func (s *store) start() { s.gate = launch(s.t, "versitygw", program(s.t, "versitygw"), s.args...) }

// objects are the names in the bucket, and uploads those that are not whole.
func (s *store) objects() (objects, uploads []string) {
	s.t.Helper()
	for o := range s.client.ListObjects(s.t.Context(), bucket, minio.ListObjectsOptions{Recursive: true}) {
		if o.Err != nil {
			s.t.Fatal(o.Err)
		}
		objects = append(objects, o.Key)
	}
	for u := range s.client.ListIncompleteUploads(s.t.Context(), bucket, "", true) {
		if u.Err != nil {
			s.t.Fatal(u.Err)
		}
		uploads = append(uploads, u.Key)
	}
	return objects, uploads
}

// line is a proxy that can be cut: it passes so many bytes of requests, and then ends
// connections until it is mended.
type line struct {
	http.Handler
	addr string // plain
	left atomic.Int64
	// deaf: requests to abort uploads do not get through either, as when the board
	// loses power.
	deaf atomic.Bool
}

const whole = int64(1) << 60

func newLine(t *testing.T, to string) *line {
	t.Helper()
	l := new(line)
	l.left.Store(whole)
	client := &http.Transport{}
	l.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if l.deaf.Load() && r.Method == http.MethodDelete || l.left.Load() <= 0 {
			panic(http.ErrAbortHandler)
		}
		r.URL.Scheme, r.URL.Host, r.RequestURI = "http", to, ""
		if r.Body != nil {
			r.Body = &counted{r.Body, &l.left}
		}
		resp, err := client.RoundTrip(r)
		if err != nil {
			panic(http.ErrAbortHandler)
		}
		defer func() { _ = resp.Body.Close() }()
		for name, values := range resp.Header {
			w.Header()[name] = values
		}
		w.WriteHeader(resp.StatusCode)
		_, _ = io.Copy(w, resp.Body)
	})
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l.addr = listener.Addr().String()
	server := &http.Server{Handler: l}
	// Owner: the test; ends with Close.
	go func() { _ = server.Serve(listener) }()
	t.Cleanup(func() {
		_ = server.Close()
		client.CloseIdleConnections()
	})
	return l
}

func (l *line) cutAfter(bytes int64) { l.left.Store(bytes) }

func (l *line) mend() { l.left.Store(whole); l.deaf.Store(false) }

type counted struct {
	io.ReadCloser
	left *atomic.Int64
}

func (c *counted) Read(p []byte) (int, error) {
	n, err := c.ReadCloser.Read(p)
	if c.left.Add(-int64(n)) <= 0 {
		return 0, errors.New("the line was cut")
	}
	return n, err
}

// secure has the line speak TLS, and returns where, and the file of its authority.
func (l *line) secure(t *testing.T) (addr, ca string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	ca = filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
	listener, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}})
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: l, ErrorLog: log.New(io.Discard, "", 0)} // of clients that do not trust it
	// Owner: the test; ends with Close.
	go func() { _ = server.Serve(listener) }()
	t.Cleanup(func() { _ = server.Close() })
	return listener.Addr().String(), ca
}

// flags are those of the bucket, over the plain line.
func (s *store) flags() []string {
	return []string{"--s3-endpoint", s.addr, "--s3-insecure", "--s3-bucket", bucket, "--s3-folder", "kitchen/a", "--s3-access-key", accessKey}
}

// limpet runs a command line with the secret in its environment.
func limpet(t *testing.T, args ...string) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, program(t, "limpet"), args...)
	cmd.Env = append(cleanEnv(), "LIMPET_S3_SECRET_KEY="+secretKey)
	out, err := cmd.CombinedOutput()
	if strings.Contains(string(out), secretKey) {
		t.Errorf("limpet %v tells the secret:\n%s", args, out)
	}
	return string(out), err
}

func succeed(t *testing.T, args ...string) string {
	t.Helper()
	out, err := limpet(t, args...)
	if err != nil {
		t.Fatalf("limpet %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return out
}

// member is one that runs.
type member struct {
	*process
	addr, dir string
}

func runMember(t *testing.T, dir string, flags ...string) *member {
	t.Helper()
	m := &member{addr: freeAddr(t), dir: dir}
	peers := "http://" + freeAddr(t)
	url := "http://" + m.addr
	m.process = launch(t, "limpet", program(t, "limpet"), slices.Concat([]string{
		"server", "--name", "board", "--data-dir", dir, "--listen-client-urls", url, "--advertise-client-urls", url,
		"--listen-peer-urls", peers, "--initial-advertise-peer-urls", peers,
	}, flags)...)
	eventually(t, "the member answers", func() bool {
		out, err := limpet(t, "status", "--endpoints", m.addr, "--timeout", "2s")
		return err == nil && strings.Contains(out, "leader")
	})
	return m
}

func (m *member) ctl(t *testing.T, args ...string) string {
	t.Helper()
	return succeed(t, append([]string{"etcdctl", "--endpoints", m.addr}, args...)...)
}

// fill writes so many MiB that cannot be compressed.
func (m *member) fill(t *testing.T, mib int) {
	t.Helper()
	value := make([]byte, 500<<10)
	for i := range 2 * mib {
		_, _ = rand.Read(value)
		cmd := exec.CommandContext(t.Context(), program(t, "limpet"), "etcdctl", "--endpoints", m.addr, "put", fmt.Sprint("fill", i))
		cmd.Stdin = strings.NewReader(fmt.Sprintf("%x", value))
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("put: %v\n%s", err, out)
		}
	}
}
