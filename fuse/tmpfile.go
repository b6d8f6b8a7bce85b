package fuse

import gofuse "github.com/hanwen/go-fuse/v2/fuse"

// Tmpfile makes a file without a name and opens it (O_TMPFILE).
func (fs *fileSystem) Tmpfile(cancel <-chan struct{}, input *gofuse.CreateIn, out *gofuse.CreateOut) (status gofuse.Status) {
	r := fs.begin(opTmpfile, cancel, &input.InHeader)
	defer r.end(&status)
	fs.dropResent(&input.InHeader)
	parent := fs.ino(input.NodeId)
	f, attr, err := fs.client.Tmpfile(r, fs.maker(&input.InHeader, input.Umask), parent, input.Mode, input.Flags)
	if err != nil {
		return r.status(err)
	}
	fs.fillEntry(&out.EntryOut, parent, &attr)
	fs.fillOpen(&out.OpenOut, f, input.Flags, &input.InHeader)
	return gofuse.OK
}
