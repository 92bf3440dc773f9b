package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
)

// sectorSize is the unit of "sectors" in /sys/block/*/stat, whatever the device's own is.
const sectorSize = 512

// deviceSize of an image. It is sparse: only what is written takes room.
const deviceSize = 1 << 30

// device is an ext4 image on a loop device, mounted at dir.
type device struct {
	dir, image, loop string // loop: /dev/loopN
}

// blockStat is what a block device has been asked for so far.
type blockStat struct{ writes, sectors, flushes int64 }

// mountDevice makes and mounts an image at dir. It needs root, losetup, mkfs.ext4 and mount.
func mountDevice(dir string) (*device, error) {
	d := &device{dir: dir, image: dir + ".img"}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	f, err := os.Create(d.image)
	if err != nil {
		return nil, err
	}
	if err := errors.Join(f.Truncate(deviceSize), f.Close()); err != nil {
		return nil, err
	}
	// Lazy initialisation would go on writing in the background, and be counted.
	if _, err := command("mkfs.ext4", "-q", "-F", "-E", "lazy_itable_init=0,lazy_journal_init=0", d.image); err != nil {
		return nil, err
	}
	if d.loop, err = command("losetup", "--find", "--show", d.image); err != nil {
		return nil, err
	}
	if _, err := command("mount", "-t", "ext4", d.loop, dir); err != nil {
		return nil, errors.Join(err, d.detach())
	}
	return d, nil
}

// disks are the devices of a cluster's members, one each, or none when this program may not mount any.
type disks []*device

// mountDisks mounts a device at each dir; none, without an error, when not root.
func mountDisks(dirs []string) (d disks, err error) {
	if os.Geteuid() != 0 {
		return nil, nil
	}
	for _, dir := range dirs {
		dev, err := mountDevice(dir)
		if err != nil {
			return nil, errors.Join(err, d.close())
		}
		d = append(d, dev)
	}
	return d, nil
}

// read is the sum of all devices' counters.
func (d disks) read() (blockStat, error) {
	var total blockStat
	for _, dev := range d {
		s, err := dev.read()
		if err != nil {
			return blockStat{}, err
		}
		total.writes += s.writes
		total.sectors += s.sectors
		total.flushes += s.flushes
	}
	return total, nil
}

// close unmounts all.
func (d disks) close() error {
	var errs []error
	for _, dev := range d {
		errs = append(errs, dev.close())
	}
	return errors.Join(errs...)
}

// read syncs the file system, then reads the counters of the device.
func (d *device) read() (blockStat, error) {
	if err := syncFolder(d.dir); err != nil {
		return blockStat{}, err
	}
	text, err := os.ReadFile(filepath.Join("/sys/block", filepath.Base(d.loop), "stat"))
	if err != nil {
		return blockStat{}, err
	}
	return parseBlockStat(string(text))
}

// parseBlockStat reads fields 5 (write requests), 7 (sectors written) and 16 (flushes) of a stat file, counted from 1
// as in the kernel's Documentation/block/stat.rst.
func parseBlockStat(text string) (blockStat, error) {
	fields := strings.Fields(text)
	if len(fields) < 16 {
		return blockStat{}, fmt.Errorf("block stat of %d fields, want 16 or more: %q", len(fields), text)
	}
	var s blockStat
	for _, f := range []struct {
		at int
		to *int64
	}{{5, &s.writes}, {7, &s.sectors}, {16, &s.flushes}} {
		n, err := strconv.ParseInt(fields[f.at-1], 10, 64)
		if err != nil {
			return blockStat{}, err
		}
		*f.to = n
	}
	return s, nil
}

// close unmounts and removes the image.
func (d *device) close() error {
	_, err := command("umount", d.dir)
	return errors.Join(err, d.detach())
}

func (d *device) detach() error {
	_, err := command("losetup", "--detach", d.loop)
	return errors.Join(err, os.Remove(d.image))
}

// command runs a program and returns what it printed.
func command(name string, args ...string) (string, error) {
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("%s: %w: %s", name, err, lastLines(out, 3))
	}
	return strings.TrimSpace(string(out)), nil
}
