package server

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"dfs"
	"dfs/internal/disk"
	"dfs/meta"
	"dfs/meta/backup"
	"dfs/meta/replica"
	"dfs/meta/store"
	"dfs/proto/chunkpb"
	"dfs/rpc"
)

// restoreBatchBytes of rows are written at a time.
const restoreBatchBytes = 4 << 20

// Checked is what was found out about a backup.
type Checked struct {
	backup.Head
	backup.Tail
	Problems []meta.Problem // rows that contradict each other
}

// VerifyBackup reads a backup to its end and makes a scratch folder of it, which must not
// exist, in which the rows are checked against each other. It needs as much room as the
// rows take. The error says that the backup cannot be used.
func VerifyBackup(in io.Reader, scratch string) (c Checked, err error) {
	if _, err := os.Lstat(scratch); !errors.Is(err, fs.ErrNotExist) {
		return c, fmt.Errorf("%s is there already", scratch)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(scratch)) }()
	rows, err := store.OpenSmall(disk.OS(), scratch)
	if err != nil {
		return c, err
	}
	defer func() { err = errors.Join(err, rows.Close()) }()
	if c.Head, c.Tail, err = restoreRows(in, rows); err != nil {
		return c, err
	}
	err = rows.View(func(r meta.Reader) error { c.Problems = meta.Check(r); return nil })
	return c, err
}

// restoreRows writes the rows of a backup to an empty store, and reads them again there.
func restoreRows(in io.Reader, rows *store.Store) (head backup.Head, tail backup.Tail, err error) {
	batch := rows.Batch()
	defer func() {
		if batch != nil {
			err = errors.Join(err, batch.Close())
		}
	}()
	commit := func() error {
		b := batch
		batch = nil
		return rows.Commit(b, store.Position{})
	}
	tail, err = backup.Read(in, func(h backup.Head) error { head = h; return nil }, func(k, v []byte) error {
		if err := batch.Set(k, v); err != nil || batch.Bytes() < restoreBatchBytes {
			return err
		}
		if err := commit(); err != nil {
			return err
		}
		batch = rows.Batch()
		return nil
	})
	if err != nil {
		return head, tail, err
	}
	if err := commit(); err != nil {
		return head, tail, err
	}
	sum := backup.NewSum()
	err = rows.View(func(r meta.Reader) error {
		return backup.All(r, func(k, v []byte) error { sum.Add(k, v); return nil })
	})
	if err == nil && sum.End() != tail {
		err = fmt.Errorf("what was written to disk is not what the backup has: %w", dfs.EIO)
	}
	return head, tail, err
}

// RestoreOptions say what becomes of a backup.
type RestoreOptions struct {
	Dir     string        // of the master; it must be empty or not there
	Name    string        // of the master
	Keep    time.Duration // no chunk is deleted for so long
	Version string        // of the program
}

// RestoreBackup makes the folder of a master from a backup: the first, and for now the
// only one of the cluster that was backed up. The others begin with empty folders and
// join it. A folder that is made in part is no master's.
func RestoreBackup(in io.Reader, o RestoreOptions) (c Checked, err error) {
	entries, err := os.ReadDir(o.Dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return c, err
	}
	if len(entries) > 0 {
		return c, fmt.Errorf("the folder %s is not empty: a master's folder is restored into an empty one", o.Dir)
	}
	if err := os.MkdirAll(o.Dir, 0o700); err != nil {
		return c, err
	}
	id := identity{Node: dfs.NodeID(newID()), Name: o.Name}
	if err := c.restore(in, o, id.Node); err != nil {
		return c, errors.Join(err, os.RemoveAll(filepath.Join(o.Dir, replica.RowsDir)))
	}
	id.Cluster = c.Cluster
	return c, writeIdentity(disk.OS(), o.Dir, id)
}

func (c *Checked) restore(in io.Reader, o RestoreOptions, node dfs.NodeID) (err error) {
	rows, err := store.OpenSmall(disk.OS(), filepath.Join(o.Dir, replica.RowsDir))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, rows.Close()) }()
	if c.Head, c.Tail, err = restoreRows(in, rows); err != nil {
		return err
	}
	batch := rows.Batch()
	at := time.Now()
	if err := meta.Restored(batch, dfs.TimeOf(at), dfs.TimeOf(at.Add(o.Keep)), o.Version); err != nil {
		return errors.Join(err, batch.Close())
	}
	p, err := replica.First(node, c.Term+restoreTerms)
	if err != nil {
		return errors.Join(err, batch.Close())
	}
	p.Time = dfs.TimeOf(at)
	if err := rows.Commit(batch, p); err != nil {
		return err
	}
	if err := rows.View(func(r meta.Reader) error { c.Problems = meta.Check(r); return nil }); err != nil {
		return err
	}
	return rows.Flush()
}

// restoreTerms is by how much Raft's term goes up: nothing that was said by a leader since
// the backup is taken for news.
const restoreTerms = 1 << 20

// keepsUnknown reports whether no chunk may be deleted, since the metadata is restored
// and may not know what was written before.
func (s *Server) keepsUnknown() bool {
	if err := s.lookAtMap(); err != nil { // the setting counts at once
		return true
	}
	return s.mapNow().Setting("keep-unknown-until", 0) > time.Now().Unix()
}

// RestoreFromServers is RestoreBackup of the newest copy of the metadata that chunk servers
// have, and of the next one when that cannot be used. Tell hears what is tried.
func RestoreFromServers(ctx context.Context, pool *rpc.Pool, addrs []string, o RestoreOptions, tell func(string)) (Checked, error) {
	type copyAt struct {
		addr string
		info *chunkpb.BackupInfo
	}
	var all []copyAt
	var errs []error
	for _, addr := range addrs {
		list, err := listCopies(ctx, pool, addr)
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", addr, err))
			tell(fmt.Sprintf("%s: %v", addr, err))
		}
		for _, info := range list {
			all = append(all, copyAt{addr, info})
		}
	}
	if len(all) == 0 {
		return Checked{}, errors.Join(append([]error{errors.New("none of these chunk servers has a copy of the metadata")}, errs...)...)
	}
	for _, c := range all {
		if c.info.Cluster != all[0].info.Cluster {
			return Checked{}, fmt.Errorf("the chunk servers are of different clusters, %v and %v: name those of one", dfs.ClusterID(c.info.Cluster), dfs.ClusterID(all[0].info.Cluster))
		}
	}
	slices.SortStableFunc(all, func(a, b copyAt) int { return strings.Compare(b.info.Name, a.info.Name) })
	for _, c := range all {
		tell(fmt.Sprintf("restoring the copy of %v from %s", time.Unix(int64(c.info.MadeUnix), 0).UTC(), c.addr))
		checked, err := restoreCopy(ctx, pool, c.addr, c.info, o)
		if err == nil {
			return checked, nil
		}
		tell(fmt.Sprintf("%s: %s: %v", c.addr, c.info.Name, err))
		errs = append(errs, err)
	}
	return Checked{}, fmt.Errorf("no copy could be restored: %w", errors.Join(errs...))
}

func listCopies(ctx context.Context, pool *rpc.Pool, addr string) ([]*chunkpb.BackupInfo, error) {
	ctx, cancel := context.WithTimeout(ctx, backupListTimeout)
	defer cancel()
	conn, err := pool.Conn(addr)
	if err != nil {
		return nil, err
	}
	r, err := chunkpb.NewChunkClient(conn).Backups(ctx, &chunkpb.BackupsRequest{})
	return r.GetBackups(), err
}

func restoreCopy(ctx context.Context, pool *rpc.Pool, addr string, info *chunkpb.BackupInfo, o RestoreOptions) (Checked, error) {
	ctx, cancel := context.WithTimeout(ctx, backupTimeout)
	defer cancel()
	conn, err := pool.Conn(addr)
	if err != nil {
		return Checked{}, err
	}
	in, err := chunkpb.NewChunkClient(conn).GetBackup(ctx, &chunkpb.GetBackupRequest{Name: info.Name})
	if err != nil {
		return Checked{}, err
	}
	return RestoreBackup(&PartReader{Next: func() ([]byte, error) {
		p, err := in.Recv()
		return p.GetData(), err
	}}, o)
}

// PartReader is an io.Reader of what comes in parts.
type PartReader struct {
	Next func() ([]byte, error) // io.EOF after the last
	Err  error                  // the first error of Next
	left []byte
}

// Read implements io.Reader.
func (p *PartReader) Read(b []byte) (int, error) {
	for len(p.left) == 0 {
		if p.Err != nil {
			return 0, p.Err
		}
		p.left, p.Err = p.Next()
	}
	n := copy(b, p.left)
	p.left = p.left[n:]
	return n, nil
}
