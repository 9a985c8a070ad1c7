# `cpack -G DEB` makes a package that installs /usr/bin/build.
include(GNUInstallDirs)
install(TARGETS build RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR})
install(FILES README.md LICENSE DESTINATION ${CMAKE_INSTALL_DOCDIR})

set(CPACK_GENERATOR DEB)
set(CPACK_PACKAGE_NAME lamina)
set(CPACK_PACKAGE_CONTACT "Lamina developers <lamina@localhost>")
set(CPACK_PACKAGE_DESCRIPTION_SUMMARY "${PROJECT_DESCRIPTION}")
set(CPACK_PACKAGING_INSTALL_PREFIX /usr)
set(CPACK_STRIP_FILES ON)
set(CPACK_DEBIAN_FILE_NAME DEB-DEFAULT)
set(CPACK_DEBIAN_PACKAGE_SHLIBDEPS ON)
# Opened with dlopen, so shlibdeps cannot see them.
set(CPACK_DEBIAN_PACKAGE_DEPENDS "libcurl4 (>= 7.88), libarchive13 (>= 3.6), ca-certificates")
set(CPACK_DEBIAN_PACKAGE_RECOMMENDS "uidmap")
set(CPACK_DEBIAN_PACKAGE_SECTION devel)
include(CPack)
