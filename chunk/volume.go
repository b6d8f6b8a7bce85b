package chunk

import (
	"errors"
	"fmt"
	"io"
	iofs "io/fs"
	"path"
	"sync/atomic"

	"dfs"
	"dfs/internal/disk"
)

const (
	lockName   = "lock"
	chunksName = "chunks" // folder of the folders of fragments
	shards     = 256      // folders of fragments
)

// volume is one data folder.
type volume struct {
	fs      *disk.Watch
	dir     string
	id      identity // changes once, under Store.mu: the cluster
	reserve uint64   // bytes that appends must leave free
	lock    io.Closer
	total   atomic.Uint64
	free    atomic.Int64 // bytes, as of the last look, less what was appended since
	failed  atomic.Bool  // could not be looked at: takes no new chunks
	broken  atomic.Bool  // could not be read when the store was opened: the same, for good
	hung    atomic.Bool  // does not answer: nothing is asked of it
}

// openVolume locks a folder and reads who it belongs to; ok is false when it is
// new. It changes nothing but the lock file.
func openVolume(fs *disk.Watch, dir string) (v *volume, ok bool, err error) {
	if err := fs.MkdirAll(dir); err != nil {
		return nil, false, err
	}
	list, err := fs.ReadDir(dir)
	if err != nil {
		return nil, false, err
	}
	if name := foreign(list); name != "" {
		return nil, false, fmt.Errorf("data folder %s has %q in it but no %s: it is not of a chunk server; give an empty folder", dir, name, identityName)
	}
	lock, err := fs.Lock(path.Join(dir, lockName))
	if err != nil {
		if errors.Is(err, disk.ErrLocked) {
			return nil, false, fmt.Errorf("data folder %s is in use: %w", dir, err)
		}
		return nil, false, err
	}
	v = &volume{fs: fs, dir: dir, lock: lock}
	b, err := disk.ReadFile(fs, path.Join(dir, identityName), identityBytesMax)
	switch {
	case err == nil:
		if v.id, err = decodeIdentity(b); err != nil {
			err = fmt.Errorf("data folder %s: %s: %w", dir, identityName, err)
		}
		ok = true
	case errors.Is(err, iofs.ErrNotExist):
		err = nil
	}
	if err != nil {
		lock.Close()
		return nil, false, err
	}
	return v, ok, nil
}

// foreign names something that shows that a folder is not ours to fill: it is not
// empty and has no identity. What a format that was cut off leaves behind does not
// count, nor ext4's own folder.
func foreign(list []disk.Entry) string {
	name := ""
	for _, e := range list {
		switch e.Name {
		case identityName:
			return ""
		case lockName, identityName + ".tmp", "lost+found":
		default:
			name = e.Name
		}
	}
	return name
}

// format writes the identity of a new folder, or of one that has joined a cluster.
func (v *volume) format(id identity) error {
	if err := disk.MkdirSync(v.fs, v.dir); err != nil {
		return fmt.Errorf("format data folder %s: %w", v.dir, err)
	}
	if err := disk.WriteFile(v.fs, path.Join(v.dir, identityName), encodeIdentity(id)); err != nil {
		return fmt.Errorf("format data folder %s: %w", v.dir, err)
	}
	v.id = id
	return nil
}

// makeShards makes the folders of fragments and lets their names last, so that an
// append has only its own folder to sync. A crash in the middle of the first
// format leaves some to be made at the next start.
func (v *volume) makeShards() error {
	root := path.Join(v.dir, chunksName)
	list, err := v.fs.ReadDir(root)
	if err == nil && len(list) >= shards {
		return nil
	}
	for i := range shards {
		if err := v.fs.MkdirAll(path.Join(root, fmt.Sprintf("%02x", i))); err != nil {
			return err
		}
	}
	if err := v.fs.SyncDir(root); err != nil {
		return err
	}
	return v.fs.SyncDir(v.dir)
}

// look refreshes what is known of the disk's space.
func (v *volume) look() error {
	total, free, err := v.fs.Usage(v.dir)
	v.failed.Store(err != nil)
	if err != nil {
		return err
	}
	v.total.Store(total)
	v.free.Store(int64(min(free, 1<<62)))
	return nil
}

// spare is how many bytes may be appended.
func (v *volume) spare() int64 { return v.free.Load() - int64(v.reserve) }

// works reports whether the volume can have new chunks.
func (v *volume) works() bool { return !v.failed.Load() && !v.broken.Load() && !v.hung.Load() }

// take accounts for n bytes that will be appended, or refuses them.
func (v *volume) take(n int64) error {
	if v.spare() < n {
		return fmt.Errorf("disk %s has %d bytes free, %d are kept in reserve: %w", v.dir, max(v.free.Load(), 0), v.reserve, dfs.ENOSPC)
	}
	v.free.Add(-n)
	return nil
}

func (v *volume) shardPath(id dfs.ChunkID) string {
	return path.Join(v.dir, chunksName, shardName(id))
}

func (v *volume) fragmentPath(id dfs.ChunkID, fragment uint32) string {
	return path.Join(v.shardPath(id), fragmentName(id, fragment))
}
