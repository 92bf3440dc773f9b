package main

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// machine is where a run took place: what a reader needs to judge its figures.
type machine struct {
	cpu        string
	cores      int
	memory     int64
	kernel     string
	filesystem string        // of the data folders
	sync       time.Duration // median fdatasync after a 4 KiB append there
	load       string        // load averages when the run began: others' work shows here
	golang     string
}

// describeMachine looks at this machine and at the disk under dir.
func describeMachine(dir string) (machine, error) {
	m := machine{cpu: "unknown", cores: runtime.NumCPU(), golang: runtime.Version()}
	if text, err := os.ReadFile("/proc/cpuinfo"); err == nil {
		for line := range strings.Lines(string(text)) {
			name, value, _ := strings.Cut(line, ":")
			if n := strings.TrimSpace(name); n == "model name" || n == "Model" {
				m.cpu = strings.TrimSpace(value)
				break
			}
		}
	}
	if text, err := os.ReadFile("/proc/meminfo"); err == nil {
		kib, _ := parseField(text, "MemTotal:")
		m.memory = kib << 10
	}
	if text, err := os.ReadFile("/proc/loadavg"); err == nil {
		m.load = strings.Join(strings.Fields(string(text))[:3], " ")
	}
	var uts unix.Utsname
	if err := unix.Uname(&uts); err == nil {
		m.kernel = unix.ByteSliceToString(uts.Sysname[:]) + " " + unix.ByteSliceToString(uts.Release[:]) + " " +
			unix.ByteSliceToString(uts.Machine[:])
	}
	var err error
	if m.filesystem, err = filesystemOf(dir); err != nil {
		return m, err
	}
	m.sync, err = syncTime(dir)
	return m, err
}

// inMemory tells whether the data folders are not on a disk at all, which makes syncs free and the comparison idle.
func (m machine) inMemory() bool { return m.filesystem == "tmpfs" || m.filesystem == "ramfs" }

// filesystemOf names the type of the file system that holds dir, from the longest mount point above it.
func filesystemOf(dir string) (string, error) {
	dir, err := filepath.EvalSymlinks(dir)
	if err != nil {
		return "", err
	}
	text, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		return "", err
	}
	return mountType(string(text), dir), nil
}

// mountType finds the file system type of dir in the text of /proc/mounts. Of two mounts at one place the later counts.
func mountType(mounts, dir string) string {
	kind, length := "unknown", -1
	for line := range strings.Lines(mounts) {
		f := strings.Fields(line)
		if len(f) < 3 {
			continue
		}
		at := strings.TrimSuffix(f[1], "/")
		if (dir == at || strings.HasPrefix(dir, at+"/")) && len(at) >= length {
			kind, length = f[2], len(at)
		}
	}
	return kind
}

// syncTime is the median time of 50 fdatasyncs, each after appending 4 KiB.
func syncTime(dir string) (time.Duration, error) {
	f, err := os.CreateTemp(dir, "sync")
	if err != nil {
		return 0, err
	}
	defer os.Remove(f.Name())
	defer f.Close()
	page := make([]byte, 4096)
	var times []time.Duration
	for range 50 {
		if _, err := f.Write(page); err != nil {
			return 0, err
		}
		began := time.Now()
		if err := unix.Fdatasync(int(f.Fd())); err != nil {
			return 0, err
		}
		times = append(times, time.Since(began))
	}
	return percentile(times, 50), nil
}

// list is the machine as Markdown list items.
func (m machine) list() string {
	return fmt.Sprintf(`- CPU: %s, %d cores; memory: %.1f GiB; %s
- data folders on %s; fdatasync of a 4 KiB append there: %.2f ms (median of 50)
- load averages when the run began: %s
- Go: %s
`, m.cpu, m.cores, float64(m.memory)/(1<<30), m.kernel, m.filesystem, millis(m.sync), m.load, m.golang)
}
