//go:build linux

package hosts

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"limpet/e2e/proc"
)

const diskMiB = 32

func TestPowerLoss(t *testing.T) {
	h := New(t, 1).Host(1)
	d := h.NewDisk(diskMiB)
	synced, written := filepath.Join(d.Dir(), "synced"), filepath.Join(d.Dir(), "written")
	if got := h.Exec("dd", "if=/dev/zero", "of="+synced, "bs=100", "count=1", "conv=fsync"); got.Code != 0 {
		t.Fatalf("dd: %+v", got)
	}
	if err := os.WriteFile(written, []byte("only written"), 0o644); err != nil {
		t.Fatal(err)
	}
	d.Shutdown()
	if err := os.WriteFile(filepath.Join(d.Dir(), "late"), nil, 0o644); err == nil {
		t.Error("a disk without power took a new file")
	}
	d.Remount()
	if got, err := os.ReadFile(synced); len(got) != 100 {
		t.Errorf("the synced file holds %d bytes, %v, want 100", len(got), err)
	}
	if got, err := os.ReadFile(written); !errors.Is(err, fs.ErrNotExist) && len(got) > 0 {
		t.Errorf("the file that was not synced holds %q, %v, want nothing", got, err)
	}
}

// TestThrottle lets a throttled writer and a free one run side by side.
func TestThrottle(t *testing.T) {
	h := New(t, 1).Host(1)
	d := h.NewDisk(diskMiB)
	d.Throttle(1)
	slow := h.Start("slow writer", "dd", "if=/dev/zero", "of="+filepath.Join(d.Dir(), "slow"), "bs=4k", "count=100", "oflag=direct")
	f, err := os.Create(filepath.Join(d.Dir(), "free"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for range 100 {
		if _, err := f.Write(make([]byte, 4096)); err != nil {
			t.Fatal(err)
		}
		if err := f.Sync(); err != nil {
			t.Fatal(err)
		}
	}
	if !slow.Alive() {
		t.Errorf("100 throttled writes were done before 100 free ones: %s", slow.Log.Tail(5))
	}
	d.Throttle(0)
	if exit := slow.WaitExit(time.Now(), patience); exit.Code != 0 {
		t.Errorf("without the limit the writer ended with %+v: %s", exit, slow.Log.Tail(5))
	}
}

func TestFreeze(t *testing.T) {
	h := New(t, 1).Host(1)
	d := h.NewDisk(diskMiB)
	d.Freeze()
	p := h.Start("writer", "/bin/sh", "-c", "echo text >"+filepath.Join(d.Dir(), "file"))
	waitState(t, p, "D")
	d.Thaw()
	if exit := p.WaitExit(time.Now(), patience); exit.Code != 0 {
		t.Errorf("after the thaw the writer ended with %+v", exit)
	}
}

// TestNothingStays leaves a disk in the worst state: frozen, throttled, with a program that hangs.
func TestNothingStays(t *testing.T) {
	var folder string
	t.Run("mess", func(t *testing.T) {
		h := New(t, 1).Host(1)
		p := h.NewProcess("writer", "/bin/sh")
		folder = makeMess(h, p).folder
	})
	if folder == "" {
		t.Skip("no disk could be made")
	}
	mustBeGone(t, folder)
}

func makeMess(h *Host, p *Process) *Disk {
	d := h.NewDisk(diskMiB)
	d.Throttle(1)
	d.Freeze()
	p.Launch("-c", "echo text >"+filepath.Join(d.Dir(), "file"))
	return d
}

func mustBeGone(t *testing.T, folder string) {
	t.Helper()
	if _, err := os.Stat(folder); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("stat %s: %v, want it gone", folder, err)
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil || strings.Contains(string(mounts), folder) {
		t.Errorf("something is still mounted below %s (%v)", folder, err)
	}
	if g, err := groupOf(filepath.Base(folder)); err == nil {
		if _, err := os.Stat(g.folder); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("stat %s: %v, want it gone", g.folder, err)
		}
	}
}

// messVariable makes this test binary a process that leaves a mess and waits to be killed.
const messVariable = "HOSTS_TEST_MESS"

func TestLeftoversOfTheDeadAreSwept(t *testing.T) {
	if os.Getenv(messVariable) != "" {
		h := New(t, 1).Host(1)
		fmt.Println("mess in", makeMess(h, h.NewProcess("writer", "/bin/sh")).folder+";")
		select {}
	}
	needs(t, "ip", "nft", "mkfs.ext4", "mount")
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	p := proc.NewProcess(t, "a run that dies", self)
	p.Env = []string{messVariable + "=1"}
	p.Launch("-test.run=^TestLeftoversOfTheDeadAreSwept$", "-test.v")
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := p.Log.Wait(ctx, ";"); err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(p.Log.Text(), "mess in ")
	folder, _, _ := strings.Cut(rest, ";")
	if out, err := exec.Command("mountpoint", filepath.Join(folder, mountPoint)).CombinedOutput(); err != nil {
		t.Fatalf("the other run has no mount at %q: %s", folder, out)
	}
	p.Kill()

	New(t, 1).Host(1).NewDisk(diskMiB)
	mustBeGone(t, folder)
}
