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
	"time"

	"golang.org/x/sys/unix"

	"limpet/e2e/proc"
)

// ioctls of linux/fs.h and ext4 (ext4.h), which have no names in package unix.
const (
	fiFreeze   = 0xC0045877 // _IOWR('X', 119, int)
	fiThaw     = 0xC0045878 // _IOWR('X', 120, int)
	fsShutdown = 0x8004587D // _IOR('X', 125, u32)
	noLogFlush = 2          // what the journal has not written is lost, too
)

// letGoDeadline is how long a disk may be held by programs that were killed.
const letGoDeadline = 30 * time.Second

// Disk is a host's own ext4 file system, in an image on a loop device. Its methods belong to the
// test's goroutine.
type Disk struct {
	host   *Host
	folder string // holds the lock, the image and the mount point
	group  *controlGroup
	iops   int // 0 for no limit
}

// NewDisk gives the host a Disk of so many MiB. Programs launched on the host from now on feel its
// throttle. It ends with the test, and so do the programs that still run.
func (h *Host) NewDisk(mib int64) *Disk {
	t := h.net.t
	t.Helper()
	needs(t, "mkfs.ext4", "mount")
	folder, unlock, err := newRunFolder()
	if err != nil {
		t.Fatalf("make a folder for the disk of %s: %v", h.name, err)
	}
	d := &Disk{host: h, folder: folder}
	t.Cleanup(func() {
		if err := clearAway(folder); err != nil {
			t.Errorf("clear the disk of %s away: %v", h.name, err)
		}
		unlock()
	})
	d.group, err = newControlGroup(filepath.Base(folder))
	if errors.Is(err, errNoThrottle) {
		t.Skip(err)
	}
	if err == nil {
		err = d.format(mib)
	}
	if err == nil {
		err = d.mount()
	}
	if err != nil {
		t.Fatalf("make a disk for %s: %v", h.name, err)
	}
	h.disk = d
	return d
}

// Dir is the disk's root folder.
func (d *Disk) Dir() string { return filepath.Join(d.folder, mountPoint) }

func (d *Disk) image() string { return filepath.Join(d.folder, "image") }

func (d *Disk) format(mib int64) error {
	if err := os.Mkdir(d.Dir(), 0o755); err != nil {
		return err
	}
	if err := os.WriteFile(d.image(), nil, 0o600); err != nil {
		return err
	}
	if err := os.Truncate(d.image(), mib<<20); err != nil {
		return err
	}
	// Tables that are written later, in the background, would disturb whoever counts writes.
	return command("mkfs.ext4", "-q", "-F", "-E", "lazy_itable_init=0,lazy_journal_init=0", d.image())
}

func (d *Disk) mount() error { return command("mount", "-o", "loop", d.image(), d.Dir()) }

func command(name string, args ...string) error {
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		return fmt.Errorf("%s %v: %w: %s", name, args, err, out)
	}
	return nil
}

// Throttle lets the host's programs do so many writes a second; 0 ends the limit.
func (d *Disk) Throttle(iops int) {
	d.host.net.t.Helper()
	d.iops = iops
	if err := d.throttle(); err != nil {
		d.host.net.t.Fatalf("throttle the disk of %s to %d writes a second: %v", d.host.name, iops, err)
	}
}

func (d *Disk) throttle() error {
	var stat unix.Stat_t
	if err := unix.Stat(d.Dir(), &stat); err != nil {
		return err
	}
	return d.group.limitWrites(fmt.Sprintf("%d:%d", unix.Major(stat.Dev), unix.Minor(stat.Dev)), d.iops)
}

// Freeze makes every write to the disk hang until Thaw. A program that hangs in one cannot even
// be killed.
func (d *Disk) Freeze() {
	d.host.net.t.Helper()
	if err := ioctl(d.Dir(), fiFreeze, 0); err != nil {
		d.host.net.t.Fatalf("freeze the disk of %s: %v", d.host.name, err)
	}
}

// Thaw ends a Freeze.
func (d *Disk) Thaw() {
	d.host.net.t.Helper()
	if err := ioctl(d.Dir(), fiThaw, 0); err != nil {
		d.host.net.t.Fatalf("thaw the disk of %s: %v", d.host.name, err)
	}
}

// Shutdown cuts the disk's power: what was not synced is lost, every call fails from now on. The
// host's programs go on until they are killed.
func (d *Disk) Shutdown() {
	d.host.net.t.Helper()
	if err := ioctl(d.Dir(), fsShutdown, noLogFlush); err != nil {
		d.host.net.t.Fatalf("cut the power of the disk of %s: %v", d.host.name, err)
	}
}

// Remount gives the power back. No program may have a file open on the disk.
func (d *Disk) Remount() {
	d.host.net.t.Helper()
	err := unmount(d.Dir())
	if err == nil {
		err = d.mount()
	}
	if err == nil && d.iops != 0 {
		err = d.throttle()
	}
	if err != nil {
		d.host.net.t.Fatalf("remount the disk of %s: %v", d.host.name, err)
	}
}

func ioctl(path string, request uint, value int) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	return unix.IoctlSetPointerInt(int(f.Fd()), request, value)
}

// unmount waits for programs that were killed to let go; the loop device goes with the mount.
func unmount(path string) error {
	ctx, cancel := context.WithTimeout(context.Background(), letGoDeadline)
	defer cancel()
	return proc.Eventually(ctx, 20*time.Millisecond, func() error {
		err := unix.Unmount(path, 0)
		if errors.Is(err, unix.EINVAL) || errors.Is(err, fs.ErrNotExist) { // not mounted
			return nil
		}
		return err
	})
}
