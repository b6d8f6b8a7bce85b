package server

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"dfs"
	"dfs/meta"
)

// Mover moves the bytes of files: it is a client of the cluster in the process of a master.
type Mover interface {
	// Convert brings what is stored of a file to a layout, and tells progress of each part.
	Convert(ctx context.Context, ino dfs.Ino, layout dfs.Layout, progress func(bytes uint64)) (dfs.Moved, error)
	// Close ends it; nothing is called any more.
	Close() error
}

// Times and bounds of jobs.
const (
	jobsEvery     = 10 * time.Second // between looks for jobs that nobody has told of
	jobsRetry     = 2 * time.Second  // after something that is to be tried again
	saveEvery     = time.Second      // between notes of how far a job is
	convertPage   = 256              // entries of a folder that are looked at together
	convertAtOnce = 8                // files that are moved at the same time
	convertTries  = 3                // of a file
	extentsLook   = 1024             // extents that are read together
)

// errJobChanged says that somebody has paused or ended a job, or another leader does it.
var errJobChanged = errors.New("the job was changed meanwhile")

// jobs is the job that the leader does. They are done one after the other.
type jobs struct {
	kick chan struct{} // something has changed

	mu      sync.Mutex
	id      uint64             // +checklocks:mu — of the one that is under way; 0: none is
	stop    context.CancelFunc // +checklocks:mu
	bytes   uint64             // +checklocks:mu — moved of it
	files   uint64             // +checklocks:mu — looked at
	lately  []progress         // +checklocks:mu
	trouble string             // +checklocks:mu — why it does not go on just now
	of      uint64             // +checklocks:mu — the job whose trouble that is
}

// runJobs does the jobs that are kept in the state.
func (l *leadership) runJobs() {
	for l.ctx.Err() == nil {
		job, err := l.nextJob()
		l.log("cannot read the jobs", err)
		if err == nil && job != nil {
			if err = l.runJob(job); err == nil || errors.Is(err, errJobChanged) {
				continue
			}
			l.log("a job does not go on", err)
		}
		wait := jobsEvery
		if err != nil {
			wait = jobsRetry
		}
		t := time.NewTimer(wait)
		select {
		case <-t.C:
		case <-l.jobs.kick:
		case <-l.ctx.Done():
		}
		t.Stop()
	}
}

// nextJob is the one that is to be done now; nil: none.
func (l *leadership) nextJob() (next *meta.Job, err error) {
	err = l.s.node.Read(l.ctx, func(v meta.View) error {
		next = nil
		list, err := v.Jobs()
		for i := range list {
			if list[i].State == meta.JobRuns && list[i].Kind == meta.JobConvert {
				next = &list[i]
				break
			}
		}
		return err
	})
	return next, err
}

func (l *leadership) runJob(job *meta.Job) error {
	j := &l.jobs
	ctx, stop := context.WithCancel(l.ctx)
	defer stop()
	j.mu.Lock()
	j.id, j.stop, j.bytes, j.files, j.lately = job.ID, stop, job.Bytes, job.Files, nil
	j.mu.Unlock()
	defer func() {
		j.mu.Lock()
		defer j.mu.Unlock()
		j.id, j.stop = 0, nil
	}()
	// From here on it is stopped by who changes it; it may have been changed before.
	if again, err := l.nextJob(); err != nil {
		return err
	} else if again == nil || again.ID != job.ID || again.Revision != job.Revision {
		return errJobChanged
	}
	c := &conversion{l: l, job: *job, saved: time.Now()}
	err := c.run(ctx)
	if err != nil && ctx.Err() != nil && l.ctx.Err() == nil {
		return errJobChanged
	}
	if err != nil {
		l.jobs.troubled(job.ID, err)
	}
	return err
}

// troubled notes why a job does not go on.
func (j *jobs) troubled(id uint64, err error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.trouble, j.of = cutText(err.Error()), id
}

// masterAddrs are the addresses of all masters.
func (s *Server) masterAddrs() (addrs []string, err error) {
	err = s.node.LocalRead(func(v meta.View) error {
		masters, err := v.Masters()
		for _, m := range masters {
			addrs = append(addrs, m.Addr)
		}
		return err
	})
	return addrs, err
}

// cutText makes an error fit into the row of a job.
func cutText(t string) string { return strings.ToValidUTF8(t[:min(len(t), 512)], "") }

// conversion brings files to the policies of their folders.
type conversion struct {
	l     *leadership
	mover Mover
	saved time.Time // when it was noted last how far it is

	mu  sync.Mutex
	job meta.Job // +checklocks:mu
}

// run does what is left of it.
func (c *conversion) run(ctx context.Context) (err error) {
	job := c.now()
	if !job.Counted {
		if job.Total, err = c.count(ctx); err != nil {
			return err
		}
		c.change(func(j *meta.Job) { j.Total, j.Counted = job.Total, true })
		if err := c.save(ctx); err != nil {
			return err
		}
	}
	var masters []string
	if masters, err = c.l.s.masterAddrs(); err != nil {
		return err
	}
	if c.mover, err = c.l.s.cfg.Mover(ctx, masters); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.mover.Close()) }()
	if job.Layout != 0 {
		if err := c.file(ctx, job.Ino, job.Layout); err != nil {
			return err
		}
	}
	for {
		part, err := c.l.part(c.now().Places)
		if err != nil {
			return err
		}
		if part == nil {
			break
		}
		if err := c.convert(ctx, part); err != nil {
			return err
		}
		c.change(func(j *meta.Job) {
			j.Places = part.rest
			if part.begins {
				j.Folders++
			}
			if len(j.Places) > meta.PlacesMax {
				j.Places = j.Places[:meta.PlacesMax-1]
				j.Skipped++
				j.Error = fmt.Sprintf("there are more than %d folders in each other", meta.PlacesMax)
			}
		})
		if time.Since(c.saved) >= saveEvery {
			if err := c.save(ctx); err != nil {
				return err
			}
		}
	}
	c.change(func(j *meta.Job) {
		j.State, j.Ended = meta.JobDone, now()
		if j.Skipped > 0 {
			j.State = meta.JobFailed
		}
	})
	return c.save(ctx)
}

func (c *conversion) now() meta.Job {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.job
}

func (c *conversion) change(fn func(j *meta.Job)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	fn(&c.job)
	j := &c.l.jobs
	j.mu.Lock()
	defer j.mu.Unlock()
	j.bytes, j.files = c.job.Bytes, c.job.Files
}

// moved notes that a part of a file is kept as it should be.
func (c *conversion) moved(bytes uint64) {
	c.change(func(j *meta.Job) { j.Bytes += bytes })
	j := &c.l.jobs
	j.mu.Lock()
	defer j.mu.Unlock()
	j.lately = append(j.lately, progress{time.Now(), bytes})
	j.trouble = ""
}

// save notes in the state how far it is.
func (c *conversion) save(ctx context.Context) error {
	job := c.now()
	job.Revision++
	r, err := c.l.s.propose(ctx, &meta.PutJob{Job: job})
	switch {
	case err != nil:
		return err
	case r.Errno != dfs.OK:
		return errJobChanged
	}
	c.change(func(j *meta.Job) { j.Revision = job.Revision })
	c.saved = time.Now()
	return nil
}

// part is what is looked at together of a tree: entries of one folder.
type part struct {
	layout dfs.Layout // of the folder
	files  []dfs.Ino
	begins bool         // the folder
	rest   []meta.Place // where it goes on; none: that was all
}

// part reads the next part of a tree; nil when there is none. A folder in the folder is gone into
// at once, so places are never more than the folders are deep. What is moved to where the
// walk has been is not found.
func (l *leadership) part(places []meta.Place) (*part, error) {
	if len(places) == 0 {
		return nil, nil
	}
	p := &part{rest: slices.Clone(places)}
	at := &p.rest[len(p.rest)-1]
	p.begins = at.Cookie == 0
	err := l.s.node.LocalRead(func(v meta.View) error {
		attr, err := v.GetAttr(at.Ino)
		if err != nil {
			return err
		}
		p.layout = attr.Layout
		list, err := v.ReadDir(dfs.Cred{Checked: true}, at.Ino, at.Cookie, convertPage, false)
		if err != nil {
			return err
		}
		for _, e := range list.Entries {
			at.Cookie = e.Cookie
			switch e.Type {
			case dfs.TypeFile:
				p.files = append(p.files, e.Ino)
			case dfs.TypeDir:
				p.rest = append(p.rest, meta.Place{Ino: e.Ino})
				return nil
			}
		}
		if list.End {
			p.rest = p.rest[:len(p.rest)-1]
		}
		return nil
	})
	if errors.Is(err, dfs.ESTALE) { // removed meanwhile
		p.rest, err = p.rest[:len(p.rest)-1], nil
	}
	return p, err
}

// otherwise is how much of a file is not kept in a layout. as is false when something is to be
// done: the file is not to be written in that layout, or such bytes are there.
func (l *leadership) otherwise(ino dfs.Ino, layout dfs.Layout) (bytes uint64, as bool, err error) {
	for off, more := uint64(0), true; more; {
		err := l.s.node.LocalRead(func(v meta.View) error {
			attr, err := v.GetAttr(ino)
			if err != nil {
				return err
			}
			as = attr.Layout == layout
			var list []dfs.Extent
			list, more, err = v.Extents(ino, off, extentsLook)
			for _, e := range list {
				off = e.End()
				if e.Chunk.Layout() != layout {
					bytes += uint64(e.Len)
				}
			}
			more = more && len(list) > 0
			return err
		})
		if errors.Is(err, dfs.ESTALE) { // removed meanwhile
			return 0, true, nil
		} else if err != nil {
			return 0, false, err
		}
	}
	return bytes, as && bytes == 0, nil
}

// count is how many bytes are to be moved.
func (c *conversion) count(ctx context.Context) (total uint64, err error) {
	job := c.now()
	if job.Layout != 0 {
		total, _, err = c.l.otherwise(job.Ino, job.Layout)
		return total, err
	}
	for places := job.Places; ; {
		p, err := c.l.part(places)
		if err != nil || p == nil {
			return total, err
		}
		for _, ino := range p.files {
			n, _, err := c.l.otherwise(ino, p.layout)
			if err != nil {
				return 0, err
			}
			total += n
		}
		if places = p.rest; ctx.Err() != nil {
			return 0, ctx.Err()
		}
	}
}

// convert moves the files of a part.
func (c *conversion) convert(ctx context.Context, p *part) error {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(convertAtOnce)
	for _, ino := range p.files {
		g.Go(func() error { return c.file(ctx, ino, p.layout) })
	}
	return g.Wait()
}

// file moves a file. One that cannot be moved, after some tries, is passed over and counted.
func (c *conversion) file(ctx context.Context, ino dfs.Ino, layout dfs.Layout) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	_, as, err := c.l.otherwise(ino, layout)
	if err != nil {
		return err
	}
	if as {
		c.change(func(j *meta.Job) { j.Files++ })
		return nil
	}
	for try := 1; ; try++ {
		moved, err := c.mover.Convert(ctx, ino, layout, c.moved)
		switch {
		case err == nil || errors.Is(err, dfs.ESTALE): // done, or removed meanwhile
			c.change(func(j *meta.Job) {
				j.Files++
				j.Changed++
				j.Left += moved.Left
			})
			return nil
		case ctx.Err() != nil:
			return ctx.Err()
		case try == convertTries:
			c.l.s.logger.Error("a file is not moved", "ino", ino, "err", err)
			c.change(func(j *meta.Job) {
				j.Files++
				j.Skipped++
				j.Error = cutText(fmt.Sprintf("inode %d: %v", ino, err))
			})
			return nil
		}
		c.l.jobs.troubled(c.now().ID, err)
		if !pause(ctx, jobsRetry) {
			return ctx.Err()
		}
	}
}
