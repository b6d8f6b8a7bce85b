package replica

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"math/rand/v2"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"
	"sync"

	"dfs/internal/disk"
)

// The log on disk is a row of segment files of one size. A segment is written
// with zeros and synced before it is used, and used again when its entries are no
// longer needed, so that an append overwrites bytes that are there and its sync
// has no change of the file's size or blocks to wait for.
//
//	segment: magic 8 | version 4 | crc32c of the header 4 | number 8 | salt 8 | first record's index 8
//	record:  magic 4 | length 4 | crc32c 4 | kind 1 ... | payload | to 8 bytes
//
// A record's checksum starts from the salt of its segment, which is new each time
// that the segment is used: what an earlier use left is never taken for a record.
const (
	logVersion     = 1
	segmentHeader  = 4096
	recordHeader   = 16
	recordAlign    = 8
	recordMax      = 64 << 20 // bytes of one record
	recordFill     = 8 << 20  // bytes of entries after which a record takes no more
	SegmentBytes   = 16 << 20 // default size of a segment; a longer record gets a segment of its own
	segmentSuffix  = ".log"
	freeSuffix     = ".free"
	freeSegments   = 2 // segments that are made ahead of need
	freeMax        = 8 // segments kept to be used again; a compaction gives up about half as many
	segmentNameLen = 16
)

var (
	segmentMagic = [8]byte{'d', 'f', 's', 'r', 'a', 'f', 't', 0}
	recordMagic  = [4]byte{'d', 'f', 'L', 1}
	castagnoli   = crc32.MakeTable(crc32.Castagnoli)
)

// ErrCorrupt is the cause when the log cannot be read and it is not the end that a
// crash tore.
var ErrCorrupt = errors.New("raft log is damaged")

// kindEnd is the last record of a segment that is full. Other kinds are the
// caller's.
const kindEnd = 0

// record is what one append wrote. data belongs to the log's reader.
type record struct {
	kind byte
	data []byte
}

// wal is the log's files. It is for one goroutine, but for the one that prepares
// segments.
type wal struct {
	fs    disk.FS
	dir   string
	bytes int64 // of a segment

	file     disk.File // the segment that is written
	number   uint64
	salt     uint64
	size     int64 // of file
	off      int64 // where the next record begins
	buf      []byte
	segments []walSegment // all in use, the last is file
	broken   error        // after a failed sync nothing may be written

	wg       sync.WaitGroup
	mu       sync.Mutex
	free     []string // +checklocks:mu — zeroed and synced files
	made     uint64   // +checklocks:mu — names of free files
	making   bool     // +checklocks:mu
	closed   bool     // +checklocks:mu
	makeFail error    // +checklocks:mu — for the log only: the next append says it again
}

type walSegment struct {
	number uint64
	name   string
	size   int64
	last   uint64 // index of the last entry in it
}

// openWAL opens the log in a folder, calls fn with each record in order, which
// answers the index of its last entry, and makes the log ready for appends. The end
// that a crash tore is cut off.
func openWAL(fs disk.FS, dir string, segmentBytes int64, fn func(record) (uint64, error)) (*wal, error) {
	if err := disk.MkdirSync(fs, dir); err != nil {
		return nil, err
	}
	w := &wal{fs: fs, dir: dir, bytes: segmentBytes}
	if err := w.list(); err != nil {
		return nil, err
	}
	// A process that was killed may have left names that do not last yet.
	if err := fs.SyncDir(dir); err != nil {
		return nil, err
	}
	for i := range w.segments {
		if err := w.replay(i, fn); err != nil {
			return nil, errors.Join(err, w.closeFile())
		}
	}
	if len(w.segments) > 0 {
		w.prepare() // the next segment must not be waited for
	}
	return w, nil
}

// hasLog reports whether there is a log in a folder.
func hasLog(fs disk.FS, dir string) (bool, error) {
	entries, err := fs.ReadDir(dir)
	if errors.Is(err, os.ErrNotExist) {
		return false, nil
	}
	return slices.ContainsFunc(entries, func(e disk.Entry) bool { return strings.HasSuffix(e.Name, segmentSuffix) }), err
}

// list finds the segments. Free ones of an earlier process are not trusted to be
// whole: they are removed.
func (w *wal) list() error {
	entries, err := w.fs.ReadDir(w.dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		base, ok := strings.CutSuffix(e.Name, segmentSuffix)
		if !ok {
			if strings.HasSuffix(e.Name, freeSuffix) {
				if err := w.fs.Remove(path.Join(w.dir, e.Name)); err != nil {
					return err
				}
			}
			continue
		}
		n, err := strconv.ParseUint(base, 16, 64)
		if err != nil || len(base) != segmentNameLen {
			return fmt.Errorf("%s: not the name of a segment: %w", path.Join(w.dir, e.Name), ErrCorrupt)
		}
		w.segments = append(w.segments, walSegment{number: n, name: path.Join(w.dir, e.Name)})
	}
	slices.SortFunc(w.segments, func(a, b walSegment) int { return int(int64(a.number - b.number)) })
	for i := 1; i < len(w.segments); i++ {
		if w.segments[i].number != w.segments[i-1].number+1 {
			return fmt.Errorf("%s: segment %x is missing: %w", w.dir, w.segments[i-1].number+1, ErrCorrupt)
		}
	}
	return nil
}

// replay reads segment i. Only the last may have an end that was torn.
func (w *wal) replay(i int, fn func(record) (uint64, error)) error {
	s := &w.segments[i]
	last := i == len(w.segments)-1
	b, err := disk.ReadFile(w.fs, s.name, recordMax+2*w.bytes+segmentHeader)
	if err != nil {
		return err
	}
	s.size = int64(len(b))
	salt, err := decodeSegmentHeader(b, s.number)
	if err != nil {
		return fmt.Errorf("%s: %w", s.name, err)
	}
	off, ended := int64(segmentHeader), false
	for !ended {
		rec, n, err := decodeRecord(b[off:], salt)
		if err != nil {
			if where := laterRecord(b[off:], salt); where >= 0 {
				return fmt.Errorf("%s: bad record at %d, but good ones after it at %d: %w", s.name, off, off+int64(where), ErrCorrupt)
			}
			if !last && len(b[off:]) >= recordHeader {
				return fmt.Errorf("%s: bad record at %d, and it is not the last segment: %w", s.name, off, ErrCorrupt)
			}
			break
		}
		if ended = rec.kind == kindEnd; !ended {
			index, err := fn(rec)
			if err != nil {
				return fmt.Errorf("%s: record at %d: %w", s.name, off, err)
			}
			s.last = max(s.last, index)
		}
		off += int64(n)
	}
	if !last {
		return nil
	}
	if ended {
		off = s.size // the next append begins a new segment
	}
	w.file, err = w.fs.OpenFile(s.name, os.O_RDWR)
	if err != nil {
		return err
	}
	w.number, w.salt, w.size, w.off = s.number, salt, s.size, off
	// What is torn must not meet a later record: zeros to the end, synced.
	if tail := b[off:]; len(tail) > 0 && slices.ContainsFunc(tail, func(c byte) bool { return c != 0 }) {
		clear(tail)
		if _, err := w.file.WriteAt(tail, off); err != nil {
			return err
		}
	}
	// A process that was killed may have written what it did not sync. From now on
	// raft counts on it.
	return w.file.Sync()
}

var (
	errEndOfSegment = errors.New("no more records")
	errBadRecord    = errors.New("bad record")
)

func encodeSegmentHeader(number, salt uint64) []byte {
	b := make([]byte, segmentHeader)
	copy(b, segmentMagic[:])
	binary.LittleEndian.PutUint32(b[8:], logVersion)
	binary.LittleEndian.PutUint64(b[16:], number)
	binary.LittleEndian.PutUint64(b[24:], salt)
	binary.LittleEndian.PutUint32(b[12:], crc32.Checksum(b[16:], castagnoli))
	return b
}

func decodeSegmentHeader(b []byte, number uint64) (salt uint64, err error) {
	if len(b) < segmentHeader {
		return 0, fmt.Errorf("segment header: %w", ErrCorrupt)
	}
	b = b[:segmentHeader]
	if [8]byte(b[:8]) != segmentMagic {
		return 0, fmt.Errorf("segment header: %w", ErrCorrupt)
	}
	if v := binary.LittleEndian.Uint32(b[8:]); v != logVersion {
		return 0, fmt.Errorf("raft log has format version %d, this program knows %d: use the version of dfs that wrote it", v, logVersion)
	}
	if crc32.Checksum(b[16:], castagnoli) != binary.LittleEndian.Uint32(b[12:]) {
		return 0, fmt.Errorf("segment header: %w", ErrCorrupt)
	}
	if n := binary.LittleEndian.Uint64(b[16:]); n != number {
		return 0, fmt.Errorf("segment says it is %x: %w", n, ErrCorrupt)
	}
	return binary.LittleEndian.Uint64(b[24:]), nil
}

// recordCRC is over the kind, the length and the payload, starting from the salt.
func recordCRC(salt uint64, head, data []byte) uint32 {
	var seed [8]byte
	binary.LittleEndian.PutUint64(seed[:], salt)
	crc := crc32.Checksum(seed[:], castagnoli)
	crc = crc32.Update(crc, castagnoli, head)
	return crc32.Update(crc, castagnoli, data)
}

func appendRecord(b []byte, salt uint64, kind byte, data []byte) []byte {
	start := len(b)
	b = append(b, recordMagic[:]...)
	b = binary.LittleEndian.AppendUint32(b, uint32(len(data)))
	b = append(b, 0, 0, 0, 0, kind, 0, 0, 0)
	head := b[start:]
	crc := recordCRC(salt, append(head[4:8:8], head[12:16]...), data)
	binary.LittleEndian.PutUint32(head[8:], crc)
	b = append(b, data...)
	for (len(b)-start)%recordAlign != 0 {
		b = append(b, 0)
	}
	return b
}

// decodeRecord reads the record at the start of b, and answers how many bytes it
// takes. Zeros are the end of what was written.
func decodeRecord(b []byte, salt uint64) (record, int, error) {
	if len(b) < recordHeader {
		return record{}, 0, errEndOfSegment
	}
	if [4]byte(b[:4]) != recordMagic {
		if binary.LittleEndian.Uint64(b) == 0 {
			return record{}, 0, errEndOfSegment
		}
		return record{}, 0, errBadRecord
	}
	n := int(binary.LittleEndian.Uint32(b[4:]))
	if n > recordMax || n > len(b)-recordHeader {
		return record{}, 0, errBadRecord
	}
	data := b[recordHeader : recordHeader+n]
	head := append(slices.Clone(b[4:8]), b[12:16]...)
	if recordCRC(salt, head, data) != binary.LittleEndian.Uint32(b[8:]) {
		return record{}, 0, errBadRecord
	}
	return record{kind: b[12], data: data}, min((recordHeader+n+recordAlign-1)&^(recordAlign-1), len(b)), nil
}

// laterRecord finds a good record after a bad one: then the bad one is damage, not
// the end that a crash tore, since each append is one record and is synced before
// the next. It answers -1 when there is none.
func laterRecord(b []byte, salt uint64) int {
	for off := recordAlign; off+recordHeader <= len(b); off += recordAlign {
		if [4]byte(b[off:off+4]) != recordMagic {
			continue
		}
		if _, _, err := decodeRecord(b[off:], salt); err == nil {
			return off
		}
	}
	return -1
}

// append writes one record and makes it last. lastIndex is the log's last entry
// with it. After an error the log takes no more: nobody knows what is on disk.
func (w *wal) append(kind byte, data []byte, lastIndex uint64) error {
	if w.broken != nil {
		return w.broken
	}
	err := w.write(kind, data, lastIndex)
	if err != nil {
		w.broken = fmt.Errorf("write the raft log in %s: %w", w.dir, err)
		return w.broken
	}
	return nil
}

func (w *wal) write(kind byte, data []byte, lastIndex uint64) error {
	if len(data) > recordMax {
		return fmt.Errorf("record of %d bytes is over the limit of %d", len(data), recordMax)
	}
	need := int64(recordHeader + len(data) + recordAlign)
	if w.file == nil || w.off+need > w.size {
		// The file has no room, or its end was already marked.
		if err := w.next(need); err != nil {
			return err
		}
	}
	w.buf = appendRecord(w.buf[:0], w.salt, kind, data)
	if _, err := w.file.WriteAt(w.buf, w.off); err != nil {
		return err
	}
	w.off += int64(len(w.buf))
	s := &w.segments[len(w.segments)-1]
	s.last = max(s.last, lastIndex)
	if cap(w.buf) > 1<<20 {
		w.buf = nil
	}
	return w.file.Sync()
}

// next begins a new segment, a free one if there is one of the right size.
func (w *wal) next(need int64) error {
	if w.file != nil {
		if w.off+recordHeader <= w.size {
			if _, err := w.file.WriteAt(appendRecord(nil, w.salt, kindEnd, nil), w.off); err != nil {
				return err
			}
		}
		// The end must last before the next segment does.
		if err := w.file.Sync(); err != nil {
			return err
		}
	}
	if err := w.closeFile(); err != nil {
		return err
	}
	size := max(w.bytes, need+segmentHeader)
	temp, err := w.take(size)
	if err != nil {
		return err
	}
	file, err := w.fs.OpenFile(temp, os.O_RDWR)
	if err != nil {
		return err
	}
	w.number++
	w.salt = rand.Uint64()
	name := path.Join(w.dir, fmt.Sprintf("%016x%s", w.number, segmentSuffix))
	if _, err = file.WriteAt(encodeSegmentHeader(w.number, w.salt), 0); err == nil {
		err = file.Sync()
	}
	if err == nil {
		err = w.fs.Rename(temp, name)
	}
	if err == nil {
		err = w.fs.SyncDir(w.dir)
	}
	if err != nil {
		return errors.Join(err, file.Close())
	}
	w.file, w.size, w.off = file, size, segmentHeader
	w.segments = append(w.segments, walSegment{number: w.number, name: name, size: size})
	w.prepare()
	return nil
}

// take answers a zeroed file of that size.
func (w *wal) take(size int64) (string, error) {
	w.mu.Lock()
	if size == w.bytes && len(w.free) > 0 {
		name := w.free[0]
		w.free = w.free[1:]
		w.mu.Unlock()
		return name, nil
	}
	w.made++
	name := w.freeNameLocked()
	w.mu.Unlock()
	return name, w.zero(name, size)
}

// +checklocks:w.mu
func (w *wal) freeNameLocked() string {
	return path.Join(w.dir, fmt.Sprintf("%016x%s", w.made, freeSuffix))
}

// zero writes a file of zeros and makes it last.
func (w *wal) zero(name string, size int64) error {
	f, err := w.fs.OpenFile(name, os.O_RDWR|os.O_CREATE)
	if err != nil {
		return err
	}
	block := make([]byte, min(size, 1<<20))
	for off := int64(0); off < size && err == nil; off += int64(len(block)) {
		_, err = f.WriteAt(block[:min(int64(len(block)), size-off)], off)
	}
	if err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}

// prepare makes free segments in the background, one maker at a time.
func (w *wal) prepare() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.making || w.closed || len(w.free) >= freeSegments {
		return
	}
	w.making = true
	w.made++
	name := w.freeNameLocked()
	w.wg.Go(func() {
		err := w.zero(name, w.bytes)
		w.mu.Lock()
		w.making = false
		w.makeFail = err
		if err == nil {
			w.free = append(w.free, name)
		}
		w.mu.Unlock()
		if err == nil {
			w.prepare()
		}
	})
}

// compact gives up segments in which no entry after index is needed. The last one
// always stays.
func (w *wal) compact(index uint64) error {
	n := 0
	for n < len(w.segments)-1 && w.segments[n].last <= index {
		n++
	}
	for _, s := range w.segments[:n] {
		if err := w.giveUp(s); err != nil {
			return err
		}
		// One after the other, so that a crash leaves no gap.
		if err := w.fs.SyncDir(w.dir); err != nil {
			return err
		}
	}
	w.segments = slices.Delete(w.segments, 0, n)
	return nil
}

// giveUp makes a segment a free one, or removes it. A used segment holds old
// records, which its next salt makes invalid; its blocks are written already, and
// that is what counts.
func (w *wal) giveUp(s walSegment) error {
	w.mu.Lock()
	keep := s.size == w.bytes && len(w.free) < freeMax
	w.made++
	name := w.freeNameLocked()
	w.mu.Unlock()
	if !keep {
		return w.fs.Remove(s.name)
	}
	if err := w.fs.Rename(s.name, name); err != nil {
		return err
	}
	w.mu.Lock()
	w.free = append(w.free, name)
	w.mu.Unlock()
	return nil
}

func (w *wal) closeFile() error {
	if w.file == nil {
		return nil
	}
	f := w.file
	w.file = nil
	return f.Close()
}

func (w *wal) close() error {
	w.mu.Lock()
	w.closed = true
	w.mu.Unlock()
	w.wg.Wait()
	return w.closeFile()
}
