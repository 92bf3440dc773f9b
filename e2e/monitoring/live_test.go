package monitoring

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
)

// patience is for what must happen.
const patience = time.Minute

// live is what three members of a cluster, which all is well with, showed at some
// scrapes, a minute apart as far as the series say.
type live struct {
	series memory
	end    time.Time
	labels map[string]map[string]bool // by metric, those that some series has
}

// scrapes are so many that every rate and increase has something to go by.
const scrapes = 5

// watchThree starts three members, gives them something to do, and looks at them.
func watchThree(t *testing.T) *live {
	t.Helper()
	bin := limpet(t)
	var peers, founders []string
	addrs := freeAddrs(t, 6)
	clients := addrs[:3]
	for i, a := range addrs[3:] {
		peers = append(peers, "http://"+a)
		founders = append(founders, fmt.Sprintf("m%d=http://%s", i, a))
	}
	for i := range 3 {
		run(t, bin, "server", "--name", fmt.Sprint("m", i), "--data-dir", filepath.Join(t.TempDir(), "d"),
			"--listen-client-urls", "http://"+clients[i], "--advertise-client-urls", "http://"+clients[i],
			"--listen-peer-urls", peers[i], "--initial-advertise-peer-urls", peers[i], "--initial-cluster", strings.Join(founders, ","))
	}
	for _, c := range clients {
		get(t, "http://"+c+"/readyz", "")
		get(t, "http://"+c+"/metrics", `(?ms)^etcd_network_active_peers\S+ 1$.*^etcd_network_active_peers\S+ 1$`)
	}
	l := &live{series: memory{}, labels: map[string]map[string]bool{}}
	for i := range scrapes {
		for _, c := range clients {
			ctl(t, bin, c, "put", "a", fmt.Sprint(i))
			ctl(t, bin, c, "get", "a")
			ctl(t, bin, c, "member", "list")
		}
		l.end = began.Add(time.Duration(i) * minute)
		for _, c := range clients {
			l.take(t, c, get(t, "http://"+c+"/metrics", ""))
		}
	}
	return l
}

// take adds a scrape to the series, as Prometheus would.
func (l *live) take(t *testing.T, instance string, page []byte) {
	t.Helper()
	parser := expfmt.NewTextParser(model.UTF8Validation)
	families, err := parser.TextToMetricFamilies(bytes.NewReader(page))
	if err != nil {
		t.Fatal(err)
	}
	add := func(name string, m *dto.Metric, value float64, extra ...string) {
		b := labels.NewBuilder(labels.FromStrings(append(extra, labels.MetricName, name, "job", "limpet", "instance", instance)...))
		for _, p := range m.GetLabel() {
			b.Set(p.GetName(), p.GetValue())
		}
		if name == "limpet_clock_seconds" { // the scrapes are said to be at other times
			value += float64(l.end.Unix() - time.Now().Unix())
		}
		have := b.Labels()
		l.series.add(have, l.end, value)
		if l.labels[name] == nil {
			l.labels[name] = map[string]bool{}
		}
		have.Range(func(p labels.Label) { l.labels[name][p.Name] = true })
	}
	add("up", &dto.Metric{}, 1)
	for name, f := range families {
		for _, m := range f.GetMetric() {
			switch f.GetType() {
			case dto.MetricType_HISTOGRAM:
				h := m.GetHistogram()
				for _, bucket := range h.GetBucket() {
					add(name+"_bucket", m, float64(bucket.GetCumulativeCount()), "le", fmt.Sprint(bucket.GetUpperBound()))
				}
				add(name+"_count", m, float64(h.GetSampleCount()))
				add(name+"_sum", m, h.GetSampleSum())
			case dto.MetricType_SUMMARY:
				add(name+"_count", m, float64(m.GetSummary().GetSampleCount()))
				add(name+"_sum", m, m.GetSummary().GetSampleSum())
			default:
				add(name, m, m.GetCounter().GetValue()+m.GetGauge().GetValue()+m.GetUntyped().GetValue())
			}
		}
	}
}

// limpet is the program: LIMPET_BIN, or built here.
func limpet(t *testing.T) string {
	t.Helper()
	if path := os.Getenv("LIMPET_BIN"); path != "" {
		abs, err := filepath.Abs(path)
		if err != nil {
			t.Fatal(err)
		}
		return abs
	}
	path := filepath.Join(t.TempDir(), "limpet")
	build := exec.Command("go", "build", "-o", path, ".")
	build.Dir, build.Env = "../..", append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", build, err, out)
	}
	return path
}

// freeAddrs are addresses to listen on that were free a moment ago, below those that
// the kernel gives connections.
func freeAddrs(t *testing.T, n int) []string {
	t.Helper()
	var out []string
	for port := 20000 + os.Getpid()%5000*2; len(out) < n; port++ {
		if port > 32700 {
			t.Fatal("no ports are free")
		}
		addr := fmt.Sprintf("127.0.0.1:%d", port)
		l, err := net.Listen("tcp", addr)
		if err != nil {
			continue
		}
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
		out = append(out, addr)
	}
	return out
}

// run starts a program that ends with the test.
func run(t *testing.T, path string, args ...string) {
	t.Helper()
	var log bytes.Buffer
	cmd := exec.Command(path, args...)
	cmd.Stdout, cmd.Stderr = &log, &log
	for _, kv := range os.Environ() {
		if !strings.HasPrefix(kv, "LIMPET_") && !strings.HasPrefix(kv, "ETCD_") {
			cmd.Env = append(cmd.Env, kv)
		}
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if t.Failed() {
			t.Logf("%s\n%s", cmd, log.Bytes()[max(0, log.Len()-2000):])
		}
	})
}

// get asks until the answer is 200 and matches a pattern.
func get(t *testing.T, url, pattern string) []byte {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	last, want := error(nil), regexp.MustCompile(pattern)
	for {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := http.DefaultClient.Do(req)
		if err == nil {
			var body []byte
			body, err = io.ReadAll(resp.Body)
			_ = resp.Body.Close()
			if err == nil && resp.StatusCode == http.StatusOK && want.Match(body) {
				return body
			}
			err = fmt.Errorf("%s, %d bytes, which are not %q", resp.Status, len(body), pattern)
		}
		if ctx.Err() == nil {
			last = err
		}
		select {
		case <-ctx.Done():
			t.Fatalf("%s: %v", url, last)
		case <-time.After(50 * time.Millisecond):
		}
	}
}

func ctl(t *testing.T, bin, endpoint string, args ...string) {
	t.Helper()
	out, err := exec.Command(bin, append([]string{"etcdctl", "--endpoints", endpoint}, args...)...).CombinedOutput()
	if err != nil {
		t.Fatalf("etcdctl %v: %v\n%s", args, err, out)
	}
}
