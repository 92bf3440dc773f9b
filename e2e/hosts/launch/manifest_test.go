//go:build linux

package launch

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"
)

// object is what is looked at of a Kubernetes object.
type object struct {
	Kind     string
	Metadata metadata
	Spec     struct {
		podSpec
		Template struct {
			Metadata metadata
			Spec     podSpec
		}
	}
}

type metadata struct {
	Name, Namespace string
	Labels          map[string]string
}

type podSpec struct{ Containers []spec }

// spec is a container of a pod.
type spec struct {
	Name          string
	Command, Args []string
	Env           []struct {
		Name, Value string
		ValueFrom   struct{ FieldRef struct{ FieldPath string } }
	}
	Ports []struct {
		Name          string
		ContainerPort int
	}
	LivenessProbe, ReadinessProbe, StartupProbe probe
}

type probe struct {
	HTTPGet *struct {
		Host, Path string
		Port       any // number or name
	}
}

func read(t *testing.T, file string) string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join("testdata", file))
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// objects reads a manifest.
func objects(t *testing.T, file string) []object {
	t.Helper()
	var out []object
	for _, doc := range strings.Split(read(t, file), "\n---\n") {
		var o object
		if err := yaml.Unmarshal([]byte(doc), &o); err != nil {
			t.Fatalf("%s: %v", file, err)
		}
		out = append(out, o)
	}
	return out
}

// variable is how a manifest names one: $(NAME).
var variable = regexp.MustCompile(`\$\(([A-Z0-9_]+)\)`)

// expand is what a kubelet makes of a container: its command line and its environment.
func (s *spec) expand(of metadata) (argv, env []string) {
	values := map[string]string{}
	in := func(text string) string {
		return variable.ReplaceAllStringFunc(text, func(v string) string { return values[v[2:len(v)-1]] })
	}
	for _, e := range s.Env {
		switch e.ValueFrom.FieldRef.FieldPath {
		case "":
			values[e.Name] = in(e.Value)
		case "metadata.name":
			values[e.Name] = of.Name
		case "metadata.namespace":
			values[e.Name] = of.Namespace
		case "metadata.labels['app']":
			values[e.Name] = of.Labels["app"]
		}
		env = append(env, e.Name+"="+values[e.Name])
	}
	for _, a := range slices.Concat(s.Command, s.Args) {
		argv = append(argv, in(a))
	}
	return argv, env
}

// probes are the URLs that a kubelet asks of a container on a host with address ip.
func (s *spec) probes(ip string) []string {
	var out []string
	for _, p := range []probe{s.LivenessProbe, s.ReadinessProbe, s.StartupProbe} {
		if p.HTTPGet == nil {
			continue
		}
		host, port := p.HTTPGet.Host, fmt.Sprint(p.HTTPGet.Port)
		if host == "" {
			host = ip
		}
		for _, named := range s.Ports {
			if named.Name == port {
				port = fmt.Sprint(named.ContainerPort)
			}
		}
		out = append(out, fmt.Sprintf("http://%s:%s%s", host, port, p.HTTPGet.Path))
	}
	return out
}

// unit is what systemd makes of a unit: the command line and the environment. Of the specifiers it
// knows %m, %H and %p.
func unit(t *testing.T, file, defaults string) (argv, env []string) {
	t.Helper()
	specifier := strings.NewReplacer("%m", "5c8e0a0d2a6e4c5b9d0f7a1b2c3d4e5f", "%H", "board", "%p", "etcd")
	values := map[string]string{}
	set := func(line string) {
		if name, value, ok := strings.Cut(line, "="); ok && !strings.HasPrefix(line, "#") {
			values[name] = strings.Trim(value, `"`)
		}
	}
	var command string
	for line := range strings.Lines(read(t, file)) {
		switch key, value, _ := strings.Cut(specifier.Replace(strings.TrimSpace(line)), "="); key {
		case "Environment":
			set(value)
		case "EnvironmentFile":
			for line := range strings.Lines(read(t, defaults)) {
				set(strings.TrimSpace(line))
			}
		case "ExecStart":
			command = value
		}
	}
	for name, value := range values {
		env = append(env, name+"="+value)
	}
	return strings.Fields(os.Expand(command, func(name string) string { return values[name] })), env
}
