// POSIX.1-2001 "ustar Interchange Format" and "pax Interchange Format": where the fields are.
//
//   offset size            offset size            offset size
//   0      100  name       136    12   mtime      265    32   uname
//   100    8    mode       148    8    chksum     297    32   gname
//   108    8    uid        156    1    typeflag   329    8    devmajor
//   116    8    gid        157    100  linkname   337    8    devminor
//   124    12   size       257    8    magic+vers 345    155  prefix
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string_view>

namespace lamina::layers::tar {

inline constexpr size_t kBlock = 512;

struct Field {
  size_t offset, size;
};
inline constexpr Field kName{0, 100}, kMode{100, 8}, kUid{108, 8}, kGid{116, 8}, kSize{124, 12}, kMtime{136, 12},
    kChecksum{148, 8}, kType{156, 1}, kLinkName{157, 100}, kMagic{257, 8}, kDevMajor{329, 8}, kDevMinor{337, 8},
    kPrefix{345, 155};

inline constexpr std::string_view kUstarMagic{"ustar\00000", 8};
inline constexpr std::string_view kGnuMagic{"ustar  \0", 8};
inline constexpr std::string_view kXattrKey = "SCHILY.xattr.";

using Header = std::array<char, kBlock>;

// Bytes of padding after `size` bytes of content.
inline constexpr uint64_t padding(uint64_t size) { return (kBlock - size % kBlock) % kBlock; }

}  // namespace lamina::layers::tar
