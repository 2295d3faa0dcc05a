module github.com/manifuse/manifuse/bench/peers/jacobsa

go 1.23.0

require github.com/jacobsa/fuse v0.0.0-20260630194014-a124548f6da7

require golang.org/x/sys v0.31.0 // indirect
