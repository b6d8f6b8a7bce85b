package fuse

import (
	"dfs"

	gofuse "github.com/hanwen/go-fuse/v2/fuse"
)

// Places in a listing, as lseek(2) and telldir(3) see them: 0 is before ".", and
// the place after an entry is its cookie, which the masters keep above these two.
const (
	afterDot    = 1
	afterDotDot = 2
)

// Bytes that one entry takes at least in the kernel's buffer, with a name of up
// to 8 bytes, and what READDIRPLUS adds to it.
const (
	direntBytes     = 32
	direntPlusBytes = 128
	direntsMax      = 4096 // entries asked for at once
)

// ReadDir lists names, types and inode numbers.
func (fs *fileSystem) ReadDir(cancel <-chan struct{}, input *gofuse.ReadIn, out *gofuse.DirEntryList) (status gofuse.Status) {
	r := fs.begin(opReadDir, cancel, &input.InHeader)
	defer r.end(&status)
	return fs.readDir(r, input, false, func(e gofuse.DirEntry, _ *dfs.Attr) bool { return out.AddDirEntry(e) })
}

// ReadDirPlus lists with attributes. The kernel asks for it as long as programs
// look at what they list.
func (fs *fileSystem) ReadDirPlus(cancel <-chan struct{}, input *gofuse.ReadIn, out *gofuse.DirEntryList) (status gofuse.Status) {
	r := fs.begin(opReadDirPlus, cancel, &input.InHeader)
	defer r.end(&status)
	return fs.readDir(r, input, true, func(e gofuse.DirEntry, attr *dfs.Attr) bool {
		entry := out.AddDirLookupEntry(e)
		if entry == nil {
			return false
		}
		if attr != nil && attr.Ino != 0 { // "." and ".." stay without: the kernel skips their node 0
			fs.called(e.Name, attr)
			fs.fillEntry(entry, fs.ino(input.NodeId), attr)
		}
		return true
	})
}

// readDir fills the kernel's buffer from the place it names. add says when the
// buffer is full. Nothing is kept for the next part: the place says where it begins.
func (fs *fileSystem) readDir(r *request, input *gofuse.ReadIn, plus bool, add func(gofuse.DirEntry, *dfs.Attr) bool) gofuse.Status {
	ino := fs.ino(input.NodeId)
	keep := fs.keepsListings()
	if keep {
		fs.beginList(ino)
	}
	p := part{place: input.Offset, limit: int(input.Size) / direntBytes, plus: plus, add: add}
	if plus {
		p.limit = int(input.Size) / (direntBytes + direntPlusBytes)
	}
	p.limit = max(1, min(p.limit, direntsMax))
	err := fs.fill(r, fs.cred(&input.InHeader), ino, &p)
	if err != nil && p.added == 0 {
		return r.status(err)
	}
	if keep {
		fs.endList(ino, input.Offset == 0, p.added == 0, p.lease)
	}
	return gofuse.OK // what has been put in the buffer has to be told before a failure
}

// part is a part of a listing that is being made.
type part struct {
	place uint64 // the next one
	limit int    // entries that may fit
	plus  bool
	add   func(gofuse.DirEntry, *dfs.Attr) bool
	added int    // entries
	lease uint64 // under which all of them may be kept; 0: there is none
}

// fill adds entries until the buffer is full or there are no more.
func (fs *fileSystem) fill(r *request, cred dfs.Cred, ino dfs.Ino, p *part) error {
	for asked := 0; ; asked++ {
		cookie := p.place
		if p.place <= afterDotDot {
			cookie = 0
		}
		list, err := fs.client.ReadDir(r, cred, ino, cookie, p.limit, p.plus)
		if err != nil {
			return err
		}
		if asked == 0 {
			p.lease = list.Lease
		} else if list.Lease != p.lease {
			p.lease = 0
		}
		if p.place < afterDot && !p.put(gofuse.DirEntry{Name: ".", Ino: uint64(ino), Mode: dfs.TypeDir, Off: afterDot}, nil) {
			return nil
		}
		if p.place < afterDotDot && !p.put(gofuse.DirEntry{Name: "..", Ino: uint64(list.Parent), Mode: dfs.TypeDir, Off: afterDotDot}, nil) {
			return nil
		}
		for i := range list.Entries {
			e := &list.Entries[i]
			if !p.put(gofuse.DirEntry{Name: e.Name, Ino: uint64(e.Ino), Mode: e.Type, Off: e.Cookie}, &e.Attr) {
				return nil
			}
		}
		// A full buffer saves the kernel a request. But attributes are of the moment when they
		// were asked for: those of the first would be older than they need be.
		if list.End || len(list.Entries) == 0 || p.plus {
			return nil
		}
	}
}

func (p *part) put(e gofuse.DirEntry, attr *dfs.Attr) bool {
	if !p.add(e, attr) {
		return false
	}
	p.place = e.Off
	p.added++
	return true
}
