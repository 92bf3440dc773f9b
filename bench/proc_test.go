package main

import (
	"os"
	"testing"
	"time"
)

func TestParseStatCPU(t *testing.T) {
	// The command name is the hard part: it may hold spaces, brackets and digits.
	stat := "4242 (a ) 1 (b) S 1 4242 4242 0 -1 4194560 7 0 0 0 150 25 3 4 20 0 9 0 100 1 2\n"
	if got, err := parseStatCPU([]byte(stat)); err != nil || got != 1750*time.Millisecond {
		t.Errorf("parseStatCPU = %v, %v; want 1.75s: 150 + 25 ticks", got, err)
	}
	for _, bad := range []string{"", "1 (x) S 1", "1 x S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16"} {
		if got, err := parseStatCPU([]byte(bad)); err == nil {
			t.Errorf("parseStatCPU(%q) = %v, want an error", bad, got)
		}
	}
}

func TestParseField(t *testing.T) {
	status := []byte("Name:\tx\nVmHWM:\t     300 kB\nVmRSS:\t     200 kB\n")
	if got, err := parseField(status, "VmRSS:"); err != nil || got != 200 {
		t.Errorf("VmRSS = %d, %v; want 200", got, err)
	}
	if got, err := parseField(status, "RssAnon:"); err == nil {
		t.Errorf("RssAnon = %d, want an error: there is none", got)
	}
}

func TestParseMachineCPU(t *testing.T) {
	text := "cpu  100 20 30 9999 8888 4 5 6 70 80\ncpu0 1 1 1 1 1 1 1 1 0 0\n"
	if got := parseMachineCPU(text); got != 1650*time.Millisecond {
		t.Errorf("parseMachineCPU = %v, want 1.65s: idle, iowait and guests left out", got)
	}
}

func TestReadOwnProcess(t *testing.T) {
	mem, err := readMemory(os.Getpid())
	if err != nil || mem.rss <= 0 || mem.peak < mem.anon {
		t.Errorf("readMemory = %+v, %v; want some RSS and a peak above the anonymous part", mem, err)
	}
	if _, err := readCost(os.Getpid()); err != nil {
		t.Errorf("readCost: %v", err)
	}
	if got, err := readRuntime(os.Getpid()); err != nil || got <= 0 {
		t.Errorf("readRuntime = %v, %v; want more than 0", got, err)
	}
}

func TestParseBlockStat(t *testing.T) {
	text := "  1 2 3 4 50 6 700 8 9 10 11 12 13 14 15 1600 17\n"
	want := blockStat{writes: 50, sectors: 700, flushes: 1600}
	if got, err := parseBlockStat(text); err != nil || got != want {
		t.Errorf("parseBlockStat = %+v, %v; want %+v", got, err, want)
	}
	if got, err := parseBlockStat("1 2 3 4 5 6 7 8 9 10 11"); err == nil {
		t.Errorf("parseBlockStat of an old kernel's line = %+v, want an error: it counts no flushes", got)
	}
}

func TestMountType(t *testing.T) {
	mounts := "/dev/a / ext4 rw 0 0\ntmpfs /run tmpfs rw 0 0\n/dev/b /run/data xfs rw 0 0\n/dev/c /run/data btrfs rw 0 0\n"
	for dir, want := range map[string]string{
		"/": "ext4", "/home/x": "ext4", "/run": "tmpfs", "/run/x": "tmpfs", "/runner": "ext4", "/run/data/x": "btrfs",
	} {
		if got := mountType(mounts, dir); got != want {
			t.Errorf("mountType(%s) = %s, want %s", dir, got, want)
		}
	}
}
