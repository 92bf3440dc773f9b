//go:build linux

package install

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"limpet/e2e/pki"
)

const (
	kubeDeadline = 40 * time.Minute  // to build Kubernetes, the first time
	programs     = "/opt/kubernetes" // where a machine has its programs
	keys         = "/var/lib/rancher/k3s/server/tls/"
)

// kubernetes builds kube-apiserver and kubectl, and gives their folder.
func kubernetes(t *testing.T) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), kubeDeadline)
	defer cancel()
	cmd := exec.CommandContext(ctx, "go", "run", "./build")
	cmd.Dir, cmd.Stderr = filepath.Join(repository, "e2e/kube"), os.Stderr
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOWORK=off")
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s: %v", cmd, err)
	}
	var built struct{ APIServer, Kubectl string }
	if err := json.Unmarshal(out, &built); err != nil || filepath.Dir(built.APIServer) != filepath.Dir(built.Kubectl) {
		t.Fatalf("%s printed %q: %v", cmd, out, err)
	}
	return filepath.Dir(built.APIServer)
}

// giveKeys puts what k3s makes for its API server onto the machine: authorities of servers, of clients
// and of the aggregation layer, and a key for service accounts.
func (m *Machine) giveKeys(t *testing.T) {
	t.Helper()
	give := func(from, name string) {
		t.Helper()
		text, err := os.ReadFile(from)
		if err != nil {
			t.Fatal(err)
		}
		m.Write(keys+name, string(text), 0o600)
	}
	pair := func(ca *pki.CA, name string, l pki.Leaf) {
		t.Helper()
		p := ca.Issue(l)
		give(p.CertFile, name+".crt")
		give(p.KeyFile, name+".key")
	}
	servers, clients, headers := pki.New(t, "k3s-server-ca"), pki.New(t, "k3s-client-ca"), pki.New(t, "k3s-request-header-ca")
	give(servers.File, "server-ca.crt")
	give(clients.File, "client-ca.crt")
	give(headers.File, "request-header-ca.crt")
	pair(servers, "serving-kube-apiserver", pki.Leaf{CN: "kube-apiserver", Names: []string{"127.0.0.1", "localhost", "kubernetes"}, Usages: pki.Server})
	pair(clients, "client-kube-apiserver", pki.Leaf{CN: "system:apiserver", Groups: []string{"system:masters"}, Usages: pki.Client})
	pair(clients, "client-admin", pki.Leaf{CN: "system:admin", Groups: []string{"system:masters"}, Usages: pki.Client})
	pair(headers, "client-auth-proxy", pki.Leaf{CN: "system:auth-proxy", Usages: pki.Client})
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	m.Write(keys+"service.key", string(pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der})), 0o600)
}

// apiServer is the command that k3s runs its API server by, with what its configuration says of the
// datastore (pkg/daemons/control/server.go of k3s); --advertise-port is a patch of k3s's own.
func (m *Machine) apiServer(datastore map[string]string) string {
	flags := map[string]string{
		"storage-backend": "etcd3",
		"etcd-servers":    datastore["datastore-endpoint"], "etcd-cafile": datastore["datastore-cafile"],
		"etcd-certfile": datastore["datastore-certfile"], "etcd-keyfile": datastore["datastore-keyfile"],
		"cert-dir":         keys + "temporary-certs",
		"allow-privileged": "true", "authorization-mode": "Node,RBAC", "anonymous-auth": "false", "profiling": "false",
		"enable-admission-plugins": "NodeRestriction", "enable-aggregator-routing": "true", "enable-bootstrap-token-auth": "true",
		"service-cluster-ip-range": "10.43.0.0/16", "service-node-port-range": "30000-32767",
		"advertise-address": m.IP().String(), "secure-port": "6444", "bind-address": "127.0.0.1",
		"tls-cert-file": keys + "serving-kube-apiserver.crt", "tls-private-key-file": keys + "serving-kube-apiserver.key",
		"service-account-key-file": keys + "service.key", "service-account-signing-key-file": keys + "service.key",
		"service-account-issuer":        "https://kubernetes.default.svc.cluster.local",
		"api-audiences":                 "https://kubernetes.default.svc.cluster.local,k3s",
		"kubelet-certificate-authority": keys + "server-ca.crt",
		"kubelet-client-certificate":    keys + "client-kube-apiserver.crt", "kubelet-client-key": keys + "client-kube-apiserver.key",
		"kubelet-preferred-address-types": "InternalIP,ExternalIP,Hostname",
		"client-ca-file":                  keys + "client-ca.crt", "requestheader-client-ca-file": keys + "request-header-ca.crt",
		"requestheader-allowed-names": "system:auth-proxy", "requestheader-extra-headers-prefix": "X-Remote-Extra-",
		"requestheader-group-headers": "X-Remote-Group", "requestheader-username-headers": "X-Remote-User",
		"proxy-client-cert-file": keys + "client-auth-proxy.crt", "proxy-client-key-file": keys + "client-auth-proxy.key",
	}
	words := []string{programs + "/kube-apiserver"}
	for name, value := range flags {
		words = append(words, "--"+name+"="+value)
	}
	slices.Sort(words[1:])
	return strings.Join(words, " ")
}

// kubectl is how the machine's administrator calls the API server.
const kubectl = programs + "/kubectl --server https://127.0.0.1:6444 --certificate-authority " + keys + "server-ca.crt" +
	" --client-certificate " + keys + "client-admin.crt --client-key " + keys + "client-admin.key "

// kubectlAtLast waits until kubectl succeeds, and gives what it printed. What an attempt without an
// answer has made is made.
func (m *Machine) kubectlAtLast(args string) (out string) {
	m.t.Helper()
	m.Eventually("kubectl "+args, func() error {
		got := m.Run(kubectl + args)
		if out = strings.TrimSpace(got.Stdout); got.Code != 0 && !strings.Contains(got.Stderr, "AlreadyExists") {
			return fmt.Errorf("ended with %d: %s", got.Code, lastLines(got.Stderr, 5))
		}
		return nil
	})
	return out
}

// settings reads a file of lines "name: value".
func (m *Machine) settings(path string) map[string]string {
	m.t.Helper()
	found := map[string]string{}
	lines := bufio.NewScanner(strings.NewReader(m.Read(path)))
	for lines.Scan() {
		name, value, _ := strings.Cut(lines.Text(), ": ")
		found[name] = value
	}
	return found
}

// moment is when something happened to a unit, in microseconds since the machine began.
func (m *Machine) moment(unit, property string) int64 {
	m.t.Helper()
	us, err := strconv.ParseInt(m.Unit(unit, property), 10, 64)
	if err != nil || us == 0 {
		m.t.Fatalf("%s of %s is %q (%v)", property, unit, m.Unit(unit, property), err)
	}
	return us
}

// TestKubernetes: an API server with the flags that k3s passes lives on a member that install.sh has
// installed with TLS: through an upgrade, during which a watch goes on, and a reboot, after which it
// starts when the member serves.
func TestKubernetes(t *testing.T) {
	t.Parallel()
	folder := kubernetes(t)
	n, all := machines(t, 1, "--bind-ro="+folder+":"+programs)
	m, from := all[0], mirror(t, n)
	m.Install(from, "--auto-tls --client-cert-auth --listen-client-urls https://0.0.0.0:2379 --advertise-client-urls https://"+m.Addr(clientPort), tokenOption).Succeeds()
	const config = "/etc/rancher/k3s/config.yaml.d/limpet.yaml"
	m.Must("mkdir -p /etc/rancher/k3s/config.yaml.d && limpet k3s-config --endpoint https://127.0.0.1:2379 --data-dir /var/lib/limpet --out " + config)
	datastore := m.settings(config)
	if len(datastore) != 4 || datastore["datastore-endpoint"] != "https://127.0.0.1:2379" {
		t.Fatalf("limpet k3s-config wrote %q", datastore)
	}
	m.giveKeys(t)
	m.Write("/etc/systemd/system/k3s.service", "[Service]\nType=notify\nRestart=always\nRestartSec=1s\nTimeoutStartSec=0\nExecStart="+m.apiServer(datastore)+"\n[Install]\nWantedBy=multi-user.target\n", 0o644)
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("the journal of k3s:\n%s", lastLines(m.Journal("k3s"), 40))
		}
	})
	m.Must("systemctl daemon-reload && systemctl enable --now --no-block k3s")
	m.kubectlAtLast("get --raw /readyz")
	m.kubectlAtLast("create namespace story")
	watch := m.Start("watch", kubectl+"--namespace story get configmaps --watch --output name")
	m.kubectlAtLast("--namespace story create configmap before --from-literal a=1")

	from.Offer(newer)
	m.Install(from, "").Succeeds()
	m.runs("limpet", newer)
	m.kubectlAtLast("--namespace story create configmap after --from-literal a=1")
	m.Eventually("the watch tells of both", func() error {
		for _, want := range []string{"configmap/before", "configmap/after"} {
			if text := watch.Log.Text(); !strings.Contains(text, want) {
				return fmt.Errorf("%s is not in:\n%s", want, text)
			}
		}
		return nil
	})
	if got := m.Unit("k3s", "NRestarts"); got != "0" {
		t.Errorf("the API server was restarted %s times while limpet was upgraded:\n%s", got, lastLines(m.Journal("k3s"), 20))
	}
	before := m.kubectlAtLast("--namespace story get configmap after --output jsonpath={.metadata.resourceVersion}")

	reboot(m)
	m.kubectlAtLast("get --raw /readyz")
	if got := m.kubectlAtLast("--namespace story get configmap after --output jsonpath={.metadata.resourceVersion}"); got != before {
		t.Errorf("after a reboot the object's version is %s, was %s", got, before)
	}
	if serves, begins := m.moment("limpet", "ActiveEnterTimestampMonotonic"), m.moment("k3s", "ExecMainStartTimestampMonotonic"); begins < serves {
		t.Errorf("k3s began %d us before limpet served", serves-begins)
	}
	if got := m.Unit("k3s", "NRestarts"); got != "0" {
		t.Errorf("the API server was restarted %s times after the reboot:\n%s", got, lastLines(m.Journal("k3s"), 20))
	}
}
