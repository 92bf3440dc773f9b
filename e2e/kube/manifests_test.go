package kube

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/clientcmd"
)

// deployFolder holds the manifests, seen from here.
const deployFolder = "../../deploy/kubernetes"

// guide is how people are told to use them.
const guide = "../../docs/kubernetes.md"

// kubectl runs commands as a user would, in a shell with kubectl and limpet on its
// path, in a folder with a copy of the manifests where the repository has them.
type kubectl struct {
	t      *testing.T
	folder string
	env    []string
}

// newKubectl speaks to the cluster as its administrator; namespace is the one meant
// when none is named.
func newKubectl(t *testing.T, c *Cluster, namespace string) *kubectl {
	t.Helper()
	k := &kubectl{t: t, folder: t.TempDir()}
	config, err := c.keys.kubeconfig(c.Config.Host, "admin")
	must(t, "write a kubeconfig", err)
	loaded, err := clientcmd.LoadFromFile(config)
	must(t, "read it", err)
	loaded.Contexts[loaded.CurrentContext].Namespace = namespace
	own := filepath.Join(k.folder, "config") // commands may change it
	must(t, "write it again", clientcmd.WriteToFile(*loaded, own))
	must(t, "copy the manifests", os.CopyFS(filepath.Join(k.folder, "deploy/kubernetes"), os.DirFS(deployFolder)))
	bin := filepath.Join(k.folder, "bin")
	must(t, "make a folder", os.Mkdir(bin, 0o755))
	for name, target := range map[string]string{"bin/kubectl": c.binaries.Kubectl, "bin/limpet": c.binaries.Limpet} {
		must(t, "link "+name, os.Symlink(target, filepath.Join(k.folder, name)))
	}
	k.env = []string{"KUBECONFIG=" + own, "HOME=" + k.folder, "PATH=" + bin + ":" + os.Getenv("PATH")}
	return k
}

// try runs a script and returns what it prints.
func (k *kubectl) try(ctx context.Context, script string) (string, error) {
	cmd := exec.CommandContext(ctx, "sh", "-euc", script)
	cmd.Dir, cmd.Env = k.folder, k.env
	// A program left in the background keeps the output open, and ends here.
	cmd.WaitDelay, cmd.SysProcAttr = time.Second, &syscall.SysProcAttr{Setpgid: true}
	out, err := cmd.Output()
	if cmd.Process != nil {
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) // an error: nothing was left
	}
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) {
		err = fmt.Errorf("%w: %s", err, exit.Stderr)
	}
	return string(out), err
}

// run wants the script to succeed.
func (k *kubectl) run(ctx context.Context, script string) string {
	k.t.Helper()
	out, err := k.try(ctx, script)
	if err != nil {
		k.t.Fatalf("%s\n%v\n%s", script, err, out)
	}
	return out
}

// restrict makes a namespace as strict with Pods as it can be.
func restrict(t *testing.T, ctx context.Context, k *kubectl, namespace string) {
	t.Helper()
	k.run(ctx, "kubectl label namespace "+namespace+" pod-security.kubernetes.io/enforce=restricted pod-security.kubernetes.io/warn=restricted")
}

// Each overlay is what the API server takes without a complaint, in the strictest
// namespace, and what the controller manager makes Pods and claims of.
func TestManifests(t *testing.T) {
	c, ctx := story(t)
	folders, err := filepath.Glob(filepath.Join(deployFolder, "overlays", "*"))
	must(t, "list overlays", err)
	replicas := map[string]int{"base": 3, "overlays/single": 1, "overlays/five": 5, "overlays/tls": 3, "overlays/ssd": 3}
	if len(folders)+1 != len(replicas) {
		t.Errorf("there are %d overlays, want the %d that are looked at: %q", len(folders), len(replicas)-1, folders)
	}
	for overlay, want := range replicas {
		t.Run(overlay, func(t *testing.T) {
			namespace := newNamespace(t, ctx, c, "manifests")
			k := newKubectl(t, c, namespace)
			restrict(t, ctx, k, namespace)
			apply := "kubectl apply --server-side -k deploy/kubernetes/" + overlay
			k.run(ctx, apply+" --dry-run=server")
			if out := k.run(ctx, apply+" 2>&1"); strings.Contains(out, "Warning") {
				t.Errorf("the API server warns:\n%s", out)
			}
			t.Cleanup(func() { k.run(context.Background(), "kubectl delete --ignore-not-found storageclass ssd") })
			until(t, ctx, time.Minute, "Pods and claims of "+overlay, func(ctx context.Context) error {
				claims, err := c.Client.CoreV1().PersistentVolumeClaims(namespace).List(ctx, metav1.ListOptions{})
				if err != nil {
					return err
				}
				if len(claims.Items) != want {
					return fmt.Errorf("%d claims, want %d", len(claims.Items), want)
				}
				return podsNumber(ctx, c, namespace, "app.kubernetes.io/name=limpet", want)
			})
			// The Services mean these Pods, and nothing is left to be applied.
			for _, s := range []string{"limpet", "limpet-client"} {
				until(t, ctx, time.Minute, "endpoints of "+s, func(ctx context.Context) error {
					slices, err := c.Client.DiscoveryV1().EndpointSlices(namespace).List(ctx, metav1.ListOptions{LabelSelector: "kubernetes.io/service-name=" + s})
					if err == nil && len(slices.Items) == 0 {
						err = errors.New("none")
					}
					return err
				})
			}
			k.run(ctx, strings.Replace(apply, "apply", "diff", 1))
		})
	}
}

// What the test above takes for silence would be heard: a field that does not exist
// is refused, and so is a Pod that may gain privileges.
func TestManifestsAreValidated(t *testing.T) {
	c, ctx := story(t)
	namespace := newNamespace(t, ctx, c, "mistakes")
	k := newKubectl(t, c, namespace)
	restrict(t, ctx, k, namespace)
	for _, row := range []struct{ from, to, want string }{
		{"podManagementPolicy", "podManagmentPolicy", "podManagmentPolicy"},
		{"path: /readyz", "pfad: /readyz", "pfad"},
		{"allowPrivilegeEscalation: false", "allowPrivilegeEscalation: true", "restricted"},
	} {
		out, _ := k.try(ctx, fmt.Sprintf("kubectl kustomize deploy/kubernetes/base | sed 's,%s,%s,' | kubectl apply --server-side --dry-run=server -f - 2>&1", row.from, row.to))
		if !strings.Contains(out, row.want) {
			t.Errorf("%s for %s: got %q, want a complaint about %s", row.to, row.from, out, row.want)
		}
	}
}

// The overlay that the guide shows is one.
func TestGuidesOverlay(t *testing.T) {
	c, ctx := story(t)
	k := newKubectl(t, c, "")
	text, err := os.ReadFile(guide)
	must(t, "read the guide", err)
	_, rest, _ := strings.Cut(string(text), "```yaml\n")
	own, _, found := strings.Cut(rest, "```")
	if !found {
		t.Fatal("the guide shows none")
	}
	folder := filepath.Join(k.folder, "deploy/kubernetes/overlays/own")
	must(t, "make a folder", os.Mkdir(folder, 0o755))
	must(t, "write it", os.WriteFile(filepath.Join(folder, "kustomization.yaml"), []byte(own), 0o644))
	k.run(ctx, "kubectl create namespace limpet; kubectl apply --server-side --dry-run=server -k deploy/kubernetes/overlays/own >/dev/null; kubectl delete namespace limpet")
	out := k.run(ctx, "kubectl kustomize deploy/kubernetes/overlays/own")
	for _, want := range []string{"namespace: limpet", "replicas: 5", "image: registry.example/limpet:v1", "LIMPET_AUTO_TLS"} {
		if !strings.Contains(out, want) {
			t.Errorf("it has no %q:\n%s", want, out)
		}
	}
}

// section is a part of a guide: a heading of the second level, and the commands below.
type section struct {
	title   string
	scripts []string // of the code blocks of shell, in order
}

// sections reads a guide.
func sections(t *testing.T, file string) []section {
	t.Helper()
	text, err := os.ReadFile(file)
	must(t, "read the guide", err)
	var out []section
	script, inside := "", false
	for line := range strings.Lines(string(text)) {
		last := len(out) - 1
		switch {
		case inside && strings.HasPrefix(line, "```"):
			out[last].scripts, script, inside = append(out[last].scripts, script), "", false
		case inside:
			script += line
		case strings.HasPrefix(line, "## "):
			out = append(out, section{title: strings.TrimSpace(line[3:])})
		case strings.HasPrefix(line, "```sh"):
			inside = true
		}
	}
	return slices.DeleteFunc(out, func(s section) bool { return len(s.scripts) == 0 })
}
