package lostfs

import (
	"fmt"
	"math/rand/v2"
	"sync/atomic"
	"syscall"
	"time"

	"dfs/internal/disk"

	"github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"
)

// unmountTimeout bounds how long an unmount waits for those who have files open.
const unmountTimeout = 30 * time.Second

// Disk is a mounted disk. Its methods are for one goroutine at a time.
type Disk struct {
	dir    string
	mem    *disk.Mem
	server *fuse.Server // nil: not mounted
	lies   atomic.Bool
}

// Mount mounts an empty disk on a folder. It needs root.
func Mount(dir string) (*Disk, error) {
	d := &Disk{dir: dir, mem: disk.NewMem()}
	return d, d.mount()
}

func (d *Disk) mount() error {
	forever := time.Hour // nobody but the kernel changes anything
	server, err := fs.Mount(d.dir, &node{disk: d, mem: d.mem}, &fs.Options{
		EntryTimeout: &forever, AttrTimeout: &forever,
		MountOptions: fuse.MountOptions{
			FsName: "lostfs", Name: "lostfs", DirectMountStrict: true, DisableSplice: true, MaxWrite: 1 << 20,
		},
	})
	if err != nil {
		return fmt.Errorf("mount a disk on %s: %w", d.dir, err)
	}
	d.server = server
	return nil
}

// Cut is the loss of power and its return: the disk is mounted anew as it may be found
// afterwards. Of what was not synced, rng decides what is there; nil: nothing. Whoever
// used the disk must be dead: an open file is EBUSY, after a while.
func (d *Disk) Cut(rng *rand.Rand) error {
	if err := d.Unmount(); err != nil {
		return err
	}
	d.mem = d.mem.Crash(rng)
	return d.mount()
}

// Lie makes every later fsync say that all is well, and do nothing.
func (d *Disk) Lie() { d.lies.Store(true) }

// Unmount takes the disk away; what is on it stays for Cut. One that is not mounted is
// nil.
func (d *Disk) Unmount() error {
	if d.server == nil {
		return nil
	}
	// A process that was killed may still be giving up its files.
	deadline := time.Now().Add(unmountTimeout)
	for {
		err := syscall.Unmount(d.dir, 0)
		if err == nil {
			break
		}
		if err != syscall.EBUSY || time.Now().After(deadline) {
			return fmt.Errorf("unmount %s: %w", d.dir, err)
		}
		time.Sleep(10 * time.Millisecond)
	}
	d.server.Wait()
	d.server = nil
	return nil
}
