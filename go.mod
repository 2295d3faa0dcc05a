module github.com/manifuse/manifuse

go 1.22
