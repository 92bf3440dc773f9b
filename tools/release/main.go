// Command release builds what a limpet release consists of: a folder that any
// static web server can offer, and that install.sh downloads from.
//
//	OUT/VERSION/limpet-linux-ARCH           the static binary
//	OUT/VERSION/limpet-linux-ARCH.sha256    its hash, as sha256sum writes it
//	OUT/VERSION/limpet-linux-ARCH.cdx.json  what it is made of (CycloneDX)
//	OUT/VERSION/limpet-image.tar            what a container image has beside the binary
//	OUT/VERSION/Dockerfile, install.sh      as in the repository
//	OUT/VERSION/sha256sums.txt              the hashes of all of these
//	OUT/install.sh                          of the release made last, for curl | sh
//	OUT/channels/CHANNEL                    the VERSION released last: give an older line a channel of its own
//
// The same commit, version and Go give the same bytes, wherever they are built.
// Run it by make release.
package main

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"log"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"syscall"
	"time"
)

var (
	versionForm = regexp.MustCompile(`^v[0-9]+\.[0-9]+\.[0-9]+(-[0-9A-Za-z.-]+)?$`)
	commitForm  = regexp.MustCompile(`^[0-9a-f]{40,64}(-dirty)?$`)
	channelForm = regexp.MustCompile(`^[a-z][a-z0-9-]*$`)
	mirrorForm  = regexp.MustCompile(`^https?://[A-Za-z0-9._:/\[\]-]+[^/]$`)
)

// release is one run of the command.
type release struct {
	repo    string // the checkout
	out     string // the folder of all releases
	version string
	commit  string
	tags    string    // of the build, separated by commas
	time    time.Time // of the commit, and of all files
	channel string
	mirror  string // where the folder of all releases will be found; empty: install.sh has to be told
	targets []target
}

func main() {
	log.SetFlags(0)
	log.SetPrefix("release: ")
	syscall.Umask(0o022) // a web server reads the files, whoever made them
	r, err := parse(os.Args[1:])
	if err != nil {
		log.Fatal(err)
	}
	if err := r.run(); err != nil {
		log.Fatal(err)
	}
}

func parse(args []string) (release, error) {
	var r release
	var archs, seconds string
	f := flag.NewFlagSet("release", flag.ExitOnError)
	f.StringVar(&r.repo, "repo", "..", "the checkout to build")
	f.StringVar(&r.out, "out", "../dist", "the folder of all releases")
	f.StringVar(&r.version, "version", "", "what to call it, as v0.2.0")
	f.StringVar(&r.commit, "commit", "", "what is built, and -dirty if that is not all")
	f.StringVar(&r.tags, "tags", "", "what to leave out, as the Makefile has it")
	f.StringVar(&seconds, "time", "", "when it was committed, in seconds since 1970")
	f.StringVar(&r.channel, "channel", "stable", "the channel that names it from now on")
	f.StringVar(&r.mirror, "mirror", "", "where OUT will be found, for install.sh, as https://example.org/limpet")
	f.StringVar(&archs, "arch", "", "build for these only, separated by commas")
	_ = f.Parse(args) // ends the process on error
	at, err := strconv.ParseInt(seconds, 10, 64)
	r.time = time.Unix(at, 0).UTC()
	switch {
	case f.NArg() > 0:
		return r, fmt.Errorf("there is no argument %q; flags only", f.Arg(0))
	case !versionForm.MatchString(r.version):
		return r, fmt.Errorf("the version is %q: it must be like v0.2.0, so that installers can tell which of two is newer; make release VERSION=v0.2.0 sets it", r.version)
	case !commitForm.MatchString(r.commit) || err != nil:
		return r, fmt.Errorf("the commit is %q, of the time %q: build in a git checkout, or say where an unpacked archive comes from by make release VERSION=… COMMIT=… SOURCE_DATE_EPOCH=…", r.commit, seconds)
	case r.mirror != "" && !mirrorForm.MatchString(r.mirror):
		return r, fmt.Errorf("the mirror is %q: it must be like https://example.org/limpet, without / at its end", r.mirror)
	case !channelForm.MatchString(r.channel):
		return r, fmt.Errorf("the channel is %q: it must be a file name of a-z, 0-9 and -", r.channel)
	}
	r.targets, err = targetsOf(archs)
	return r, err
}

// run builds in a folder of its own, which takes its name when it is whole. The
// channel is written last: it never names a version that is not there.
func (r release) run() error {
	installer, err := os.ReadFile(filepath.Join(r.repo, "install.sh"))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	if installer, err = addressed(installer, r.mirror); err != nil {
		return err
	}
	f, err := newFolder(filepath.Join(r.out, "."+r.version+".new"))
	if err != nil {
		return err
	}
	defer f.discard()
	if err := r.fill(f, installer); err != nil {
		return err
	}
	if err := f.seal(r.time); err != nil {
		return err
	}
	if err := f.publish(filepath.Join(r.out, r.version)); err != nil {
		return err
	}
	if installer != nil {
		if err := replace(filepath.Join(r.out, "install.sh"), installer, 0o755); err != nil {
			return err
		}
	}
	return replace(filepath.Join(r.out, "channels", r.channel), []byte(r.version+"\n"), 0o644)
}

// addressed is install.sh with the address where it finds its files.
func addressed(installer []byte, mirror string) ([]byte, error) {
	if installer == nil || mirror == "" {
		return installer, nil
	}
	line := []byte("MIRROR=${INSTALL_LIMPET_MIRROR:-}\n")
	if n := bytes.Count(installer, line); n != 1 {
		return nil, fmt.Errorf("install.sh has %d lines %q, want one, in which the mirror is to stand", n, line)
	}
	return bytes.Replace(installer, line, []byte("MIRROR=${INSTALL_LIMPET_MIRROR:-"+mirror+"}\n"), 1), nil
}

// fill makes all files but the hashes. There may be no installer.
func (r release) fill(f folder, installer []byte) error {
	for _, t := range r.targets {
		if err := r.build(t, f.path(t.file())); err != nil {
			return err
		}
		if err := r.writeSBOM(f.path(t.file())); err != nil {
			return fmt.Errorf("SBOM of %s: %w", t.file(), err)
		}
	}
	if err := writeImage(f.path("limpet-image.tar"), r.time); err != nil {
		return err
	}
	dockerfile, err := os.ReadFile(filepath.Join(r.repo, "deploy", "Dockerfile"))
	if err != nil {
		return err
	}
	if err := os.WriteFile(f.path("Dockerfile"), dockerfile, 0o644); err != nil || installer == nil {
		return err
	}
	return os.WriteFile(f.path("install.sh"), installer, 0o755)
}
