package addrpc

// Insert is the edit of a .proto file, for the fuzz test.
var Insert = insert
