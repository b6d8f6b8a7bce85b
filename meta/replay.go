package meta

import (
	"errors"

	"dfs"
)

// apply takes each file's pieces in their order, and passes over those which the file has
// had, which do not follow what the session has committed last, and of files that are gone
// or that somebody has changed otherwise since.
func (o *Replay) apply(tx *tx) (Reply, error) {
	if err := tx.needOwn(); err != nil {
		return Reply{}, err
	}
	if _, ok, err := tx.v.Session(o.Session); err != nil || !ok {
		return Reply{}, err // it has ended meanwhile
	}
	for i := range o.Chunks {
		cc := &o.Chunks[i]
		c, err := tx.chunk(cc.Chunk)
		if err != nil {
			return Reply{}, err
		}
		if c == nil || c.owner != o.Session {
			return Reply{}, dfs.EINVAL
		}
		if stale, err := tx.commitChunk(cc, o.Session); err != nil || stale {
			return Reply{StaleMap: stale}, err
		}
	}
	var rep Reply
	for i := range o.Files {
		f := &o.Files[i]
		in, err := tx.inode(f.Ino)
		if err != nil {
			return Reply{}, err
		}
		if in == nil || f.Seq == 0 || in.writer != (writer{o.Session, f.Prev}) {
			rep.Skipped = append(rep.Skipped, f.Ino)
			continue
		}
		stale, err := tx.checkFile(f, in, o.Session)
		var refused dfs.Errno
		if err != nil && !errors.As(err, &refused) {
			return Reply{}, err
		}
		if stale || refused != dfs.OK {
			rep.Skipped = append(rep.Skipped, f.Ino)
			continue
		}
		if err := tx.commitFile(f, in, o.Session); err != nil {
			return Reply{}, err
		}
	}
	return rep, nil
}
