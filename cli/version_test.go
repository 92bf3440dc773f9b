package cli

import (
	"fmt"
	"runtime"
	"runtime/debug"
	"testing"

	"limpet/api"
)

// A test binary has no commit.
func TestVersion(t *testing.T) {
	out, err := limpet("version")
	want := fmt.Sprintf("limpet Version: v1\nGit SHA: unknown\netcd Version: %s\nGo Version: %s\nGo OS/Arch: %s/%s\n", api.Version, runtime.Version(), runtime.GOOS, runtime.GOARCH)
	if err != nil || out != want {
		t.Errorf("limpet version: got %q, %v, want %q", out, err, want)
	}
}

// Scripts read the first line of etcd --version.
func TestServerVersion(t *testing.T) {
	out, err := limpet("server", "--version")
	want := fmt.Sprintf("etcd Version: %s\nGit SHA: unknown\nGo Version: %s\nGo OS/Arch: %s/%s\nlimpet Version: v1\n", api.Version, runtime.Version(), runtime.GOOS, runtime.GOARCH)
	if err != nil || out != want {
		t.Errorf("limpet server --version: got %q, %v, want %q", out, err, want)
	}
}

func TestCommit(t *testing.T) {
	built := func(settings ...debug.BuildSetting) *debug.BuildInfo { return &debug.BuildInfo{Settings: settings} }
	sha := debug.BuildSetting{Key: "vcs.revision", Value: "7689af3"}
	for _, c := range []struct {
		name   string
		linked string
		info   *debug.BuildInfo
		want   string
	}{
		{"make", "0123abc-dirty", built(sha), "0123abc-dirty"},
		{"checkout", "", built(sha, debug.BuildSetting{Key: "vcs.modified", Value: "false"}), "7689af3"},
		{"checkout with changes", "", built(sha, debug.BuildSetting{Key: "vcs.modified", Value: "true"}), "7689af3-dirty"},
		{"no checkout", "", built(debug.BuildSetting{Key: "GOARCH", Value: "arm64"}), "unknown"},
		{"no build info", "", nil, "unknown"},
	} {
		if got := commit(c.linked, c.info); got != c.want {
			t.Errorf("%s: got %q, want %q", c.name, got, c.want)
		}
	}
}
