# Debian 12 packages only; scripts/setup.sh installs them all.
#
# What a local build needs is linked statically where Debian ships an archive, because every
# sandboxed RUN re-executes the program and pays for its start. libcurl and libarchive bring dozens
# of shared libraries, so they are loaded with dlopen when a registry or an archive is first needed.

find_package(PkgConfig REQUIRED)
find_package(Threads REQUIRED)
find_package(fmt REQUIRED)
find_package(nlohmann_json REQUIRED)
find_package(CLI11 REQUIRED)
find_package(doctest REQUIRED)

# lamina_static(name archive [extra libraries …]): an imported target for a static archive.
function(lamina_static name archive)
  find_library(LAMINA_LIB_${name} NAMES ${archive} REQUIRED)
  add_library(lamina_dep_${name} INTERFACE)
  target_link_libraries(lamina_dep_${name} INTERFACE ${LAMINA_LIB_${name}} ${ARGN})
endfunction()

lamina_static(crypto libcrypto.a Threads::Threads dl)
lamina_static(re2 libre2.a Threads::Threads)
# Debian's libzstd.a is built without threads.
lamina_static(zstd zstd)
lamina_static(deflate libdeflate.a)
lamina_static(seccomp libseccomp.a)
lamina_static(isal isal)
lamina_static(yaml libyaml.a)

# Debian has no archive of fmt either. A release compiles its headers in: without libfmt.so, and libstdc++.so with it,
# the program starts in half the time.
add_library(lamina_dep_fmt INTERFACE)
target_link_libraries(lamina_dep_fmt INTERFACE $<IF:$<CONFIG:Release>,fmt::fmt-header-only,fmt::fmt>)

# Headers only: the libraries are opened at run time.
find_path(LAMINA_CURL_INCLUDE curl/curl.h REQUIRED)
find_path(LAMINA_ARCHIVE_INCLUDE archive.h REQUIRED)
