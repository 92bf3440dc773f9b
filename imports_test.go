package main

import (
	"fmt"
	"go/parser"
	"go/token"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

type floor struct {
	pkg    string
	allows []string
}

// floors is the allowed table: what each package of the project may import of
// the project. Invariant: imports run downward only, so a package may name
// only packages that stand below it here. A new arrow, and one that is no
// longer used, is an edit to this table.
var floors = []floor{
	{"main", []string{"cli"}},
	{"cli", []string{"server", "migrate", "api/ops", "api/look", "api", "backup", "cluster", "trust", "kubeobject", "safefile", "systemd"}},
	{"server", []string{"api/ops", "api/gateway", "api/look", "api/v2", "api", "backup", "cluster", "raftfsm", "watch", "txn", "login", "auth", "lease", "sqlstore", "discovery", "peer", "trust", "certs", "memtune", "safefile"}},
	{"server/servertest", nil},
	{"migrate", []string{"txn", "auth", "sqlstore"}},
	{"api/gateway", []string{"api/recipepb"}},
	{"api/look", []string{"auth", "sqlstore"}},
	{"api/v2", []string{"api", "raftfsm", "txn", "login", "auth", "v2tree"}},
	{"api/ops", []string{"api", "raftfsm", "watch", "txn", "sqlstore", "peer"}},
	{"api", []string{"api/recipepb", "raftfsm", "watch", "txn", "login", "auth", "lease", "sqlstore"}},
	{"api/recipepb", nil},
	{"backup", []string{"txn", "sqlstore", "safefile"}},
	{"cluster", []string{"raftfsm", "txn", "discovery", "peer", "safefile"}},
	{"raftfsm", []string{"txn", "auth", "v2tree", "sqlstore", "safefile"}},
	{"watch", []string{"sqlstore"}},
	{"txn", []string{"auth", "sqlstore", "v2tree"}},
	{"login", []string{"auth"}},
	{"auth", nil},
	{"v2tree", nil},
	{"lease", nil},
	{"discovery", nil},
	{"peer", nil},
	{"trust", nil},
	{"certs", nil},
	{"certs/certtest", nil},
	{"docs/doctest", nil},
	{"sqlstore", nil},
	{"kubeobject", nil},
	{"memtune", nil},
	{"safefile", nil},
	{"systemd", nil},
}

// onlyIn says which packages may import a module, or a package, from outside;
// what lies below a name in the tree is meant, too.
var onlyIn = []struct {
	name string
	pkgs []string
}{
	{"github.com/hashicorp/raft", []string{"raftfsm", "server"}},
	{"github.com/hashicorp/memberlist", []string{"discovery"}},
	{"github.com/hashicorp/raft-wal", []string{"raftfsm"}},
	{"modernc.org/sqlite", []string{"sqlstore", "migrate"}},
	{"github.com/urfave/cli", []string{"cli"}},
	{"github.com/coreos/go-systemd", []string{"systemd"}},
	{"go.etcd.io/etcd/etcdctl", []string{"cli"}},
	{"github.com/golang-jwt/jwt", []string{"login"}},
	{"github.com/minio/minio-go", []string{"backup"}},
	{"github.com/robfig/cron", []string{"backup"}},
	{"github.com/klauspost/compress", []string{"backup"}},
	{"github.com/grpc-ecosystem/grpc-gateway", []string{"api/gateway", "api/recipepb"}},
}

// neverIn says what a package must not import. txn, v2tree and auth are pure: the
// meaning of a command depends on state and command alone (I4). auth has a lock
// for what it has worked out before.
var neverIn = map[string][]string{
	"txn": {
		"time", "math/rand", "math/rand/v2", "crypto/rand", "sync", "sync/atomic", "os", "net", "io",
		"github.com/hashicorp/raft", "github.com/hashicorp/raft-wal",
	},
	"v2tree": {"time", "math/rand", "math/rand/v2", "crypto/rand", "sync", "sync/atomic", "os", "net", "io", "context"},
	"auth":   {"time", "math/rand", "math/rand/v2", "crypto/rand", "os", "net", "io", "context"},
}

func TestImportsFollowTheTable(t *testing.T) {
	code := projectImports(t)
	table := map[string][]string{}
	for _, f := range floors {
		table[f.pkg] = f.allows
	}
	for _, pkg := range slices.Sorted(maps.Keys(code)) {
		allows, ok := table[pkg]
		if !ok {
			t.Errorf("package %s is missing in the table: give it a floor", pkg)
			continue
		}
		used := inProject(code[pkg])
		for name, file := range used {
			if !slices.Contains(allows, name) {
				t.Errorf("%s: package %s imports limpet/%s, which the table does not allow", file, pkg, name)
			}
		}
		for _, name := range allows {
			if used[name] == "" {
				t.Errorf("the table lets %s import %s, which it does not: take the arrow out", pkg, name)
			}
		}
	}
	for pkg := range table {
		if code[pkg] == nil {
			t.Errorf("the table has package %s, which holds no code", pkg)
		}
	}
}

func TestImportsRunDownward(t *testing.T) {
	for i, f := range floors {
		for _, name := range f.allows {
			if !slices.ContainsFunc(floors[i+1:], func(below floor) bool { return below.pkg == name }) {
				t.Errorf("the table lets %s import %s, which does not stand below it", f.pkg, name)
			}
		}
	}
	// The code itself, in case the table is wrong.
	code := projectImports(t)
	for pkg := range code {
		if loop := findCycle(code, []string{pkg}); loop != nil {
			t.Errorf("packages import each other: %s", strings.Join(loop, " → "))
		}
	}
}

func TestImportsFromOutside(t *testing.T) {
	for pkg, imports := range projectImports(t) {
		for name, file := range imports {
			for _, rule := range onlyIn {
				if within(name, rule.name) && !slices.Contains(rule.pkgs, pkg) {
					t.Errorf("%s: package %s imports %s, which only %v may", file, pkg, name, rule.pkgs)
				}
			}
			for _, never := range neverIn[pkg] {
				if name == never {
					t.Errorf("%s: package %s imports %s, which it must never", file, pkg, name)
				}
			}
		}
	}
}

// within reports whether name is the module or package, one below it, or
// another major version of it.
func within(name, module string) bool {
	return name == module || strings.HasPrefix(name, module+"/")
}

// findCycle walks from the last package of the way and returns the way that
// leads back to its beginning.
func findCycle(code map[string]map[string]string, way []string) []string {
	for next := range inProject(code[way[len(way)-1]]) {
		if next == way[0] {
			return append(way, next)
		}
		if slices.Contains(way, next) {
			continue // a cycle without the beginning is found from its own
		}
		if loop := findCycle(code, append(slices.Clone(way), next)); loop != nil {
			return loop
		}
	}
	return nil
}

// inProject keeps the imports that are limpet's own, by folder.
func inProject(imports map[string]string) map[string]string {
	own := map[string]string{}
	for name, file := range imports {
		if folder, ok := strings.CutPrefix(name, "limpet/"); ok {
			own[folder] = file
		} else if name == "limpet" {
			own["main"] = file
		}
	}
	return own
}

// projectImports returns for each package of this module, named by its folder,
// what its non-test files import, and one file that does. Files for other
// systems count; modules of their own (e2e, bench, tools) do not.
func projectImports(t *testing.T) map[string]map[string]string {
	t.Helper()
	code := map[string]map[string]string{}
	err := filepath.WalkDir(".", func(file string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name := d.Name()
		if d.IsDir() {
			if file == "." {
				return nil
			}
			if strings.HasPrefix(name, ".") || strings.HasPrefix(name, "_") || name == "testdata" || hasFile(file, "go.mod") {
				return filepath.SkipDir
			}
			return nil
		}
		if !strings.HasSuffix(name, ".go") || strings.HasSuffix(name, "_test.go") {
			return nil
		}
		f, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.ImportsOnly)
		if err != nil {
			return err
		}
		pkg := path.Dir(filepath.ToSlash(file))
		if pkg == "." {
			pkg = "main"
		}
		if code[pkg] == nil {
			code[pkg] = map[string]string{}
		}
		for _, spec := range f.Imports {
			name, err := strconv.Unquote(spec.Path.Value)
			if err != nil {
				return fmt.Errorf("%s: import %s: %w", file, spec.Path.Value, err)
			}
			code[pkg][name] = file
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(code) < 2 {
		t.Fatalf("found %d packages in the folder of the test, want the project's", len(code))
	}
	return code
}

func hasFile(folder, name string) bool {
	_, err := os.Stat(filepath.Join(folder, name))
	return err == nil
}
