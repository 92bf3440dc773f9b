package cli

import (
	"cmp"
	"fmt"
	"io"
	"runtime"
	"runtime/debug"

	"github.com/urfave/cli/v2"

	"limpet/api"
)

func versionCommand(version string) *cli.Command {
	return &cli.Command{
		Name:         "version",
		Usage:        "print the versions of limpet and of the etcd it speaks like",
		OnUsageError: usageError,
		Flags:        []cli.Flag{&cli.StringFlag{Name: "newer-than", Usage: "only tell whether limpet is newer than this version: newer, or not newer"}},
		Action: func(c *cli.Context) error {
			if other := c.String("newer-than"); other != "" {
				answer := "not newer"
				if newerVersion(version, other) {
					answer = "newer"
				}
				_, err := fmt.Fprintln(c.App.Writer, answer)
				return err
			}
			_, err := fmt.Fprintf(c.App.Writer, "limpet Version: %s\nGit SHA: %s\netcd Version: %s\nGo Version: %s\nGo OS/Arch: %s/%s\n",
				version, builtFrom(), api.Version, runtime.Version(), runtime.GOOS, runtime.GOARCH)
			return err
		},
	}
}

// printVersion is etcd --version: scripts read its first line.
func printVersion(w io.Writer, version string) error {
	_, err := fmt.Fprintf(w, "etcd Version: %s\nGit SHA: %s\nGo Version: %s\nGo OS/Arch: %s/%s\nlimpet Version: %s\n",
		api.Version, builtFrom(), runtime.Version(), runtime.GOOS, runtime.GOARCH, version)
	return err
}

// linkedCommit is set by the linker in what make builds.
var linkedCommit string

// builtFrom is the commit, and whether the tree had changes.
func builtFrom() string {
	info, _ := debug.ReadBuildInfo()
	return commit(linkedCommit, info)
}

// commit prefers what the linker was told. What the go command notes by itself is
// for who builds without make: it is not there in a worktree of git, and not with
// -buildvcs=false.
func commit(linked string, info *debug.BuildInfo) string {
	if linked != "" || info == nil {
		return cmp.Or(linked, "unknown")
	}
	sha, dirty := "unknown", ""
	for _, s := range info.Settings {
		switch {
		case s.Key == "vcs.revision":
			sha = s.Value
		case s.Key == "vcs.modified" && s.Value == "true":
			dirty = "-dirty"
		}
	}
	return sha + dirty
}
