package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// clockTick is the unit of utime and stime in /proc/PID/stat: USER_HZ, 100 on every Linux port Go has.
const clockTick = time.Second / 100

// usage is what a process has cost so far (cpu, written) and holds now (the rest). Bytes throughout.
type usage struct {
	cpu     time.Duration // user and system, all threads
	written int64         // write_bytes: what it caused to be sent to storage
	rss     int64         // VmRSS
	anon    int64         // RssAnon: RSS without the pages of mapped files
	peak    int64         // VmHWM
}

// minus is the cost between two readings; what is held now stays u's.
func (u usage) minus(v usage) usage {
	u.cpu -= v.cpu
	u.written -= v.written
	return u
}

// plus is what two processes cost and hold together.
func (u usage) plus(v usage) usage {
	return usage{cpu: u.cpu + v.cpu, written: u.written + v.written,
		rss: u.rss + v.rss, anon: u.anon + v.anon, peak: u.peak + v.peak}
}

// readCost fills cpu and written. It works on a zombie too, which is how work put off until the end gets counted.
func readCost(pid int) (usage, error) {
	var u usage
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return u, err
	}
	if u.cpu, err = parseStatCPU(stat); err != nil {
		return u, fmt.Errorf("pid %d: %w", pid, err)
	}
	io, err := os.ReadFile(fmt.Sprintf("/proc/%d/io", pid))
	if err != nil {
		return u, err
	}
	u.written, err = parseField(io, "write_bytes:")
	return u, err
}

// readRuntime is the CPU that a living process's threads have used, in nanoseconds, for servers so idle that clockTick is
// too coarse. A thread that ends takes its share with it; Go's seldom do.
func readRuntime(pid int) (time.Duration, error) {
	files, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", pid))
	if err != nil || len(files) == 0 {
		return 0, fmt.Errorf("pid %d has no schedstat: %w", pid, errors.Join(err, os.ErrNotExist))
	}
	var sum time.Duration
	for _, name := range files {
		text, err := os.ReadFile(name)
		if errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ESRCH) {
			continue // the thread has ended
		}
		if err != nil {
			return 0, err
		}
		var onCPU int64 // the first of three figures, proc_pid_schedstat
		if _, err := fmt.Sscan(string(text), &onCPU); err != nil {
			return 0, fmt.Errorf("%s: %w", name, err)
		}
		sum += time.Duration(onCPU)
	}
	return sum, nil
}

// readMemory fills rss, anon and peak.
func readMemory(pid int) (usage, error) {
	var u usage
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return u, err
	}
	for _, f := range []struct {
		name string
		to   *int64
	}{{"VmRSS:", &u.rss}, {"RssAnon:", &u.anon}, {"VmHWM:", &u.peak}} {
		kib, err := parseField(status, f.name)
		if err != nil {
			return u, err
		}
		*f.to = kib << 10
	}
	return u, nil
}

// parseStatCPU reads utime and stime, fields 14 and 15 of proc_pid_stat(5). The command name before them may hold
// spaces and brackets, so counting starts behind the last bracket.
func parseStatCPU(stat []byte) (time.Duration, error) {
	_, rest, ok := strings.Cut(string(stat[max(bytes.LastIndexByte(stat, ')'), 0):]), ")")
	fields := strings.Fields(rest)
	if !ok || len(fields) < 13 {
		return 0, fmt.Errorf("stat line of %d fields: %q", len(fields), stat)
	}
	utime, err := strconv.ParseInt(fields[11], 10, 64)
	if err != nil {
		return 0, err
	}
	stime, err := strconv.ParseInt(fields[12], 10, 64)
	if err != nil {
		return 0, err
	}
	return time.Duration(utime+stime) * clockTick, nil
}

// parseField finds "name   123 …" in a file of such lines.
func parseField(file []byte, name string) (int64, error) {
	for line := range strings.Lines(string(file)) {
		if rest, ok := strings.CutPrefix(line, name); ok {
			if f := strings.Fields(rest); len(f) > 0 {
				return strconv.ParseInt(f[0], 10, 64)
			}
		}
	}
	return 0, fmt.Errorf("no %s line", name)
}

// ownCPU is what the load generator, this process, has used.
func ownCPU() time.Duration { return rusageCPU(unix.RUSAGE_SELF) }

// childrenCPU is what servers and builds have used that have ended.
func childrenCPU() time.Duration { return rusageCPU(unix.RUSAGE_CHILDREN) }

func rusageCPU(who int) time.Duration {
	var ru unix.Rusage
	if unix.Getrusage(who, &ru) != nil {
		return 0
	}
	return time.Duration(ru.Utime.Nano() + ru.Stime.Nano())
}

// machineCPU is what all processes and the kernel have used of all cores since boot.
func machineCPU() time.Duration {
	text, err := os.ReadFile("/proc/stat")
	if err != nil {
		return 0
	}
	return parseMachineCPU(string(text))
}

// parseMachineCPU adds up the first line of /proc/stat without idle (4th figure), iowait (5th), and the guest times
// (9th, 10th) that user and nice include; what a hypervisor stole (8th) was used by others and counts.
func parseMachineCPU(text string) time.Duration {
	line, _, _ := strings.Cut(text, "\n")
	var sum time.Duration
	for i, f := range strings.Fields(line) {
		switch i {
		case 1, 2, 3, 6, 7, 8:
			n, _ := strconv.ParseInt(f, 10, 64)
			sum += time.Duration(n) * clockTick
		}
	}
	return sum
}
