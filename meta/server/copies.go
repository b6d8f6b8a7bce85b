package server

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"dfs"
	"dfs/internal/disk"
	"dfs/proto/chunkpb"
)

// Copies of the metadata on chunk servers: the leader makes them, so that the loss of the
// disks of all masters is no loss of names.
const (
	DefaultBackupEvery = time.Hour
	backupCopies       = 3
	backupLook         = time.Second      // how often it is looked whether a copy is due
	backupRetry        = time.Minute      // after one that failed, at most
	backupTimeout      = 10 * time.Minute // to send one copy
	backupKeep         = 3
	backupListTimeout  = 5 * time.Second
)

// copies is what the leader knows of the copies of the metadata.
type copies struct {
	mu     sync.Mutex
	last   time.Time // +checklocks:mu — when the newest was made; zero: none is known
	failed time.Time // +checklocks:mu — when the last try failed
	why    error     // +checklocks:mu
}

func (c *copies) note(made time.Time, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.why = err
	if err != nil {
		c.failed = time.Now()
	} else if made.After(c.last) {
		c.last = made
	}
}

// due reports whether a copy is to be made.
func (c *copies) due(began time.Time, every time.Duration) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if time.Since(c.failed) < min(every, backupRetry) {
		return false
	}
	if c.last.IsZero() {
		return time.Since(began) >= min(every, backupRetry)
	}
	return time.Since(c.last) >= every
}

// late is since when there is no new copy, when that is too long ago.
func (c *copies) late(began time.Time, every time.Duration) (since time.Time, why error, late bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	since = c.last
	if since.IsZero() {
		since = began
	}
	return c.last, c.why, time.Since(since) > 3*every
}

// keepCopies copies the metadata to chunk servers again and again.
func (l *leadership) keepCopies() {
	l.findCopies()
	for pause(l.ctx, backupLook) {
		if !l.copies.due(l.began, l.s.duration("backup-every", l.s.cfg.BackupEvery)) || len(l.s.mapNow().Servers) == 0 {
			continue
		}
		made, err := l.copyOnce(l.ctx)
		l.copies.note(made, err)
		l.log("the metadata could not be copied to chunk servers", err)
	}
}

// findCopies finds out when earlier leaders made the newest copy.
func (l *leadership) findCopies() {
	m := l.s.mapNow()
	var wg sync.WaitGroup
	for i := range m.Servers {
		server := &m.Servers[i]
		if server.State != dfs.ServerUp && server.State != dfs.ServerDrain {
			continue
		}
		wg.Go(func() {
			ctx, cancel := context.WithTimeout(l.ctx, backupListTimeout)
			defer cancel()
			conn, err := l.s.pool.Conn(server.Addr)
			if err != nil {
				return
			}
			r, err := chunkpb.NewChunkClient(conn).Backups(ctx, &chunkpb.BackupsRequest{})
			if err != nil {
				return // an older version, or it is about to be found dead
			}
			for _, b := range r.Backups {
				if dfs.ClusterID(b.Cluster) == m.Cluster {
					l.copies.note(time.Unix(int64(b.MadeUnix), 0), nil)
				}
			}
		})
	}
	wg.Wait()
}

// copyOnce writes a copy to a file of its own, and sends it to some servers.
func (l *leadership) copyOnce(ctx context.Context) (made time.Time, err error) {
	d, name := l.s.cfg.FS, filepath.Join(l.s.cfg.Dir, "backup.part")
	f, err := d.Create(name) // over one of a process that was killed
	if err != nil {
		return made, err
	}
	defer func() { err = errors.Join(err, f.Close(), d.Remove(name)) }()
	head, tail, err := l.s.writeBackup(io.NewOffsetWriter(f, 0))
	if err != nil {
		return made, err
	}
	m := l.s.mapNow()
	info := &chunkpb.BackupInfo{Cluster: uint64(m.Cluster), Term: head.Term, Index: head.Index, MadeUnix: uint64(head.Made.Unix())}
	servers := copyServers(m)
	want, done := min(backupCopies, len(servers)), 0
	var errs []error
	for _, server := range servers {
		if done == want || ctx.Err() != nil {
			break
		}
		if err := l.sendCopy(ctx, server, info, f); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", server.Name, err))
			continue
		}
		done++
	}
	if done < want || done == 0 {
		return made, fmt.Errorf("%d of %d chunk servers have taken a copy: %w", done, want, errors.Join(errs...))
	}
	l.s.logger.Info("the metadata was copied to chunk servers", "index", head.Index, "rows", tail.Rows, "bytes", tail.Bytes, "copies", done)
	return head.Made, nil
}

// copyServers lists the servers that are up in the order in which they get copies: always
// the same, and first one of each host.
func copyServers(m *dfs.ClusterMap) (list []dfs.Server) {
	hosts := map[string]int{}
	rank := map[dfs.NodeID]int{}
	for _, s := range m.Servers { // in order of id
		if s.State == dfs.ServerUp {
			rank[s.ID] = hosts[s.Host]
			hosts[s.Host]++
			list = append(list, s)
		}
	}
	slices.SortStableFunc(list, func(a, b dfs.Server) int { return rank[a.ID] - rank[b.ID] })
	return list
}

func (l *leadership) sendCopy(ctx context.Context, server dfs.Server, info *chunkpb.BackupInfo, f disk.File) error {
	ctx, cancel := context.WithTimeout(ctx, backupTimeout)
	defer cancel()
	conn, err := l.s.pool.Conn(server.Addr)
	if err != nil {
		return err
	}
	out, err := chunkpb.NewChunkClient(conn).PutBackup(ctx)
	if err != nil {
		return err
	}
	send := func(p *chunkpb.PutBackupPart) error {
		if err := out.Send(p); err != nil {
			_, cause := out.CloseAndRecv()
			return errors.Join(err, cause)
		}
		return nil
	}
	keep := l.s.mapNow().Setting("backup-keep", backupKeep)
	if err := send(&chunkpb.PutBackupPart{Info: info, Keep: uint32(keep)}); err != nil {
		return err
	}
	in := io.NewSectionReader(f, 0, 1<<62)
	for {
		data := make([]byte, backupPartBytes) // gRPC keeps it until it is sent
		n, err := io.ReadFull(in, data)
		if n > 0 {
			if err := send(&chunkpb.PutBackupPart{Data: data[:n], Crc: dfs.CRC(data[:n])}); err != nil {
				return err
			}
		}
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			break
		}
		if err != nil {
			return err
		}
	}
	if err := send(&chunkpb.PutBackupPart{Last: true}); err != nil {
		return err
	}
	_, err = out.CloseAndRecv()
	return err
}
