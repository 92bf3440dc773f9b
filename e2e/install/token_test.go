//go:build linux

package install

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const token = "00112233445566778899aabbccddeeff"

// TestTokenIsNeverReadable: from the first byte on, a file with the token is its owner's alone, and no
// command line has it. Every call of every process of an installation is looked at, since a look at
// the files may come too late.
func TestTokenIsNeverReadable(t *testing.T) {
	t.Parallel()
	m, from := one(t)
	m.Must("mkdir /root/calls && curl -sf -o /root/install.sh " + from.URL + "/install.sh")
	m.Start("install.sh", "umask 022; exec strace -ff -y -s 100000 -o /root/calls/c -e trace=execve,open,openat,creat,write,pwrite64,writev,sendfile,copy_file_range,umask,chmod,fchmod,fchmodat,clone,clone3,fork,vfork sh /root/install.sh",
		"INSTALL_LIMPET_MIRROR="+from.URL, "INSTALL_LIMPET_SKIP_START=true", tokenOption).Succeeds()
	files, err := filepath.Glob(m.Path("/root/calls/c.*"))
	if err != nil || len(files) < 10 {
		t.Fatalf("calls of %d processes, %v, want those of an installation", len(files), err)
	}
	c := calls{t: t, lines: map[int][]string{}, modes: map[string]int{}, holds: map[string]bool{}, loosened: map[string]string{}}
	for _, f := range files {
		pid, err := strconv.Atoi(strings.TrimPrefix(filepath.Ext(f), "."))
		if err != nil {
			t.Fatal(err)
		}
		text, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		c.lines[pid] = strings.Split(string(text), "\n")
	}
	c.follow(c.first(), 0o022)
	if !slices.ContainsFunc(slices.Collect(maps.Keys(c.holds)), func(path string) bool { return strings.HasPrefix(path, "/etc/limpet/") }) {
		t.Errorf("the token was written into %v, want a file in /etc/limpet among them", c.holds)
	}
	for path := range c.holds {
		mode, known := c.modes[path]
		if !known || mode&0o077 != 0 {
			t.Errorf("%s, which has the token, was made with mode %#o (seen: %v), want one for its owner alone", path, mode, known)
		}
		if how := c.loosened[path]; how != "" {
			t.Errorf("%s, which has the token, was opened to others: %s", path, how)
		}
		t.Logf("%s was made with mode %#o", path, mode)
	}
}

// calls are those of all processes of an installation, as strace tells them.
type calls struct {
	t        *testing.T
	lines    map[int][]string  // by process
	modes    map[string]int    // that files were made with
	holds    map[string]bool   // files that the token was written to
	loosened map[string]string // files that others were let into, and how
}

var (
	umaskCall = regexp.MustCompile(`^umask\((0[0-7]*)\)`)
	childCall = regexp.MustCompile(`^(?:clone|clone3|fork|vfork)\(.* = ([0-9]+)$`)
	makeCall  = regexp.MustCompile(`^(?:open|openat|creat)\(.*(?:O_CREAT|creat\().*, (0[0-7]+)\) = [0-9]+<([^>]+)>`)
	writeCall = regexp.MustCompile(`^(?:write|pwrite64|writev)\([0-9]+<([^>]+)>, (.*)$`)
	copyCall  = regexp.MustCompile(`^(?:sendfile|copy_file_range)\(.*`)
	chmodCall = regexp.MustCompile(`^f?chmod(?:at2?)?\((?:AT_FDCWD[^,]*, )?(?:"([^"]+)"|[0-9]+<([^>]+)>), (0[0-7]+)`)
)

// first is the process that is nobody's child here.
func (c *calls) first() int {
	children := map[int]bool{}
	for _, lines := range c.lines {
		for _, line := range lines {
			if found := childCall.FindStringSubmatch(line); found != nil {
				pid, _ := strconv.Atoi(found[1])
				children[pid] = true
			}
		}
	}
	for _, pid := range slices.Sorted(maps.Keys(c.lines)) {
		if !children[pid] {
			return pid
		}
	}
	c.t.Fatal("all processes are somebody's children")
	return 0
}

// follow goes through a process's calls, and through its children's with the mask that they begin with.
func (c *calls) follow(pid, umask int) {
	c.t.Helper()
	for _, line := range c.lines[pid] {
		if found := umaskCall.FindStringSubmatch(line); found != nil {
			umask = c.octal(found[1])
		} else if found := childCall.FindStringSubmatch(line); found != nil {
			child, _ := strconv.Atoi(found[1])
			c.follow(child, umask)
		} else if found := makeCall.FindStringSubmatch(line); found != nil {
			c.modes[found[2]] |= c.octal(found[1]) &^ umask
		} else if found := writeCall.FindStringSubmatch(line); found != nil && strings.Contains(found[2], token) {
			if strings.HasPrefix(found[1], "/") {
				c.holds[found[1]] = true
			} else if !strings.HasPrefix(found[1], "pipe:") {
				c.t.Errorf("the token was written to %s", found[1])
			}
		} else if copyCall.MatchString(line) && strings.Contains(line, "limpet-install") && strings.Contains(line, "/variables") {
			c.t.Errorf("the variables were copied: %s", line)
		} else if found := chmodCall.FindStringSubmatch(line); found != nil && c.octal(found[3])&0o077 != 0 {
			c.loosened[found[1]+found[2]] = line
		} else if strings.HasPrefix(line, "execve(") && strings.Contains(line, token) {
			c.t.Errorf("a command line has the token: %s", line)
		}
	}
}

func (c *calls) octal(text string) int {
	v, err := strconv.ParseInt(text, 8, 32)
	if err != nil {
		c.t.Fatal(fmt.Errorf("%q is no mode: %w", text, err))
	}
	return int(v)
}
