// Package bundle turns folders into archives and archives into folders. It owns how an
// App's folder and a result's folder are packed, which names and kinds of file may
// travel, and how an archive from a stranger is unpacked without harm. It keeps nothing
// and runs nothing. The catalogue, the node and the program spare call it.
//
// What travels: regular files with clean relative names that every system can store.
// Links, devices, sockets and pipes are refused, and so is a name that is absolute,
// climbs out, is no UTF-8, differs from another only by case, or means something special
// to Windows.
package bundle
