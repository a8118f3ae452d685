imp_unit_test(im_address LINK imp_im)
