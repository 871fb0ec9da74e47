"""Statistics of the models of the NeuralGCM paper at TL127 and TL255."""

TRACERS = (
    "specific_cloud_ice_water_content",
    "specific_cloud_liquid_water_content",
    "specific_humidity",
)

TOP_TEMPERATURE = 215.58614815  # reference of the uppermost layer, K; 223.6 at TL63

# Of a state's features. A line: name, scale and shift at TL127, at TL255.
STATE_STATISTICS = """
cos_latitude                               0.3057    0.639  0.3068    0.638
divergence                                 0.08243  -0.0    0.1078   -0.0
divergence_del2                            629.5    -0.009  1825.0   -0.015
divergence_dlat                            6.037    -0.001  8.5      -0.001
divergence_dlon                            4.505     0.0    8.842     0.0
geopotential_at_surface                    0.009482  0.004  0.009579  0.004
geopotential_at_surface_del2               11.13    -0.069  28.66    -0.048
geopotential_at_surface_dlat               0.1337   -0.01   0.1882   -0.01
geopotential_at_surface_dlon               0.1168    0.0    0.1564   -0.0
land_sea_mask                              0.4503    0.335  0.456     0.335
log_surface_pressure                       0.1123    1.716  0.1134    1.715
log_surface_pressure_del2                  120.6     0.824  264.6     0.59
log_surface_pressure_dlat                  1.41      0.13   1.656     0.126
log_surface_pressure_dlon                  1.285     0.0    1.645     0.0
pressure                                   1.644     2.796  1.644     2.796
radiation                                  0.2864    0.214  0.2862    0.213
sin_latitude                               0.7057   -0.0    0.7064   -0.0
specific_cloud_ice_water_content           9.111e-06 0.0    9.812e-06 0.0
specific_cloud_ice_water_content_del2      0.03864   0.0    0.08441   0.0
specific_cloud_ice_water_content_dlat      0.0003813 0.0    0.0004684 0.0
specific_cloud_ice_water_content_dlon      0.0003149 -0.0   0.0004646 -0.0
specific_cloud_liquid_water_content        1.897e-05 0.0    2.039e-05 0.0
specific_cloud_liquid_water_content_del2   0.08082  -0.0    0.1802   -0.0
specific_cloud_liquid_water_content_dlat   0.0008049 0.0    0.0009877 0.0
specific_cloud_liquid_water_content_dlon   0.0006388 0.0    0.0009565 -0.0
specific_humidity                          0.003298  0.0    0.003305  0.0
specific_humidity_del2                     2.389     0.0    4.442     0.0
specific_humidity_dlat                     0.02819   0.0    0.0319    0.0
specific_humidity_dlon                     0.021     0.0    0.02678   0.0
temperature_variation                      14.99    -4.946  15.04    -4.98
temperature_variation_del2                 5793.0    47.3   10460.0   43.608
temperature_variation_dlat                 75.47     4.913  82.59     4.843
temperature_variation_dlon                 64.98    -0.0    77.07     0.0
u                                          0.01485   0.007  0.01489   0.007
u_del2                                     13.13     0.187  18.46     0.242
u_dlat                                     1.223     0.002  0.2197    0.002
u_dlon                                     0.1378   -0.0    0.1677    0.0
v                                          0.01017  -0.0    0.01022  -0.0
v_del2                                     11.26    -0.002  17.2     -0.0
v_dlat                                     0.764    -0.0    0.169    -0.0
v_dlon                                     0.1781    0.0    0.2083    0.0
vorticity                                  0.2579   -0.002  0.2831   -0.002
vorticity_del2                             1189.0   -0.37   2831.0   -0.365
vorticity_dlat                             11.67     0.042  14.96     0.041
vorticity_dlon                             9.514    -0.0    14.91     0.0
"""

# Of data on pressure levels; what is not here is as above.
DATA_STATISTICS = """
specific_cloud_ice_water_content           7.538e-06 0.0    8.255e-06 0.0
specific_cloud_ice_water_content_del2      0.03283  -0.0    0.09943  -0.0
specific_cloud_ice_water_content_dlat      0.0003762 0.0    0.0005741 0.0
specific_cloud_ice_water_content_dlon      0.0002613 -0.0   0.0004452 0.0
specific_cloud_liquid_water_content        1.979e-05 0.0    2.182e-05 0.0
specific_cloud_liquid_water_content_del2   0.08809  -0.0    0.2881   -0.0
specific_cloud_liquid_water_content_dlat   0.001038  0.0    0.001674  0.0
specific_cloud_liquid_water_content_dlon   0.000684 -0.0    0.001224  0.0
specific_humidity                          0.003487  0.0    0.003493  0.0
specific_humidity_del2                     2.381     0.0    5.716     0.0
specific_humidity_dlat                     0.03179   0.0    0.0396    0.0
specific_humidity_dlon                     0.02059   0.0    0.02857   0.0
t                                          28.0    247.07   27.99   247.045
t_del2                                     4397.0   35.964  9788.0   37.572
t_dlat                                     64.14     1.763  71.14     1.755
t_dlon                                     50.07    -0.0    62.14    -0.0
u                                          0.01933   0.007  0.01935   0.007
u_del2                                     12.27     0.045  27.4      0.056
u_dlat                                     0.1743   -0.0    0.1876    0.0
u_dlon                                     0.1296    0.0    0.1712    0.0
v                                          0.01033   0.0    0.01038   0.0
v_del2                                     12.08     0.005  27.11     0.008
v_dlat                                     0.1152    0.0    0.1326    0.0
v_dlon                                     0.1617    0.0    0.1998   -0.0
z                                          0.1496    0.145  0.1496    0.145
z_del2                                     0.332     0.011  0.6108    0.011
z_dlat                                     0.01598   0.001  0.01606   0.001
z_dlon                                     0.008823  0.0    0.009139  0.0
"""

# Of tendencies, without a shift. A line: name, scale at TL127, at TL255.
TENDENCY_SCALES = """
log_surface_pressure                       0.05008    0.05021
temperature_variation                      33.85      33.94
specific_cloud_ice_water_content           4.471e-05  4.85e-05
specific_cloud_liquid_water_content        8.884e-05  9.693e-05
specific_humidity                          0.00608    0.006182
u                                          0.05839    0.05863
v                                          0.05138    0.0516
"""

# Humidity by level, a factor on the above: of layers, of pressure levels and of
# tendencies on layers, from the top down.
HUMIDITY = {
    "TL127": (
        """8.824e-05 7.105e-05 0.0001046 0.0001851 0.0007562 0.002625 0.007185
        0.01554 0.02886 0.04613 0.07032 0.09901 0.1344 0.175 0.2226 0.2802 0.3438
        0.4144 0.4684 0.5257 0.5895 0.6645 0.7505 0.8483 0.9499 1.053 1.159 1.274
        1.399 1.552 1.709 1.791""",
        """3.818e-05 5.988e-05 7.108e-05 8.204e-05 8.841e-05 9.115e-05 7.736e-05
        7.213e-05 8.284e-05 9.873e-05 0.0001438 0.0002976 0.001013 0.002753 0.006139
        0.01182 0.02014 0.04587 0.08568 0.1393 0.2085 0.2993 0.4066 0.4914 0.5848
        0.7112 0.8588 0.936 1.013 1.092 1.173 1.257 1.346 1.452 1.58 1.677 1.713""",
        """0.000132 0.0002049 0.000272 0.0004865 0.001441 0.004704 0.01322 0.03009
        0.05781 0.09648 0.1486 0.211 0.2892 0.3729 0.471 0.579 0.6898 0.8158 0.9043
        0.9958 1.102 1.197 1.308 1.427 1.519 1.571 1.599 1.614 1.629 1.656 1.745
        1.841""",
    ),
    "TL255": (
        """8.822e-05 7.126e-05 0.0001047 0.0001858 0.0007601 0.002642 0.007242
        0.01568 0.02907 0.04654 0.07084 0.09971 0.1355 0.1762 0.2243 0.2822 0.3459
        0.4172 0.471 0.5286 0.5932 0.6682 0.7546 0.8532 0.9553 1.058 1.164 1.278
        1.401 1.553 1.709 1.791""",
        """3.823e-05 5.985e-05 7.103e-05 8.198e-05 8.836e-05 9.113e-05 7.745e-05
        7.234e-05 8.308e-05 9.885e-05 0.0001443 0.0002999 0.001019 0.002773 0.006194
        0.01195 0.02037 0.04634 0.08648 0.1406 0.2104 0.3017 0.4097 0.4949 0.5891
        0.716 0.8645 0.9418 1.019 1.098 1.178 1.262 1.35 1.454 1.581 1.677 1.713""",
        """0.0001303 0.0002029 0.0002682 0.0004815 0.001437 0.004719 0.01328 0.03024
        0.05782 0.09671 0.1485 0.2107 0.2892 0.3723 0.4705 0.5785 0.6885 0.8155
        0.9028 0.9944 1.103 1.197 1.31 1.431 1.526 1.58 1.61 1.624 1.634 1.649 1.729
        1.824""",
    ),
}

# Memory's features have the statistics of the state's, but for these.
MEMORY = (
    "divergence",
    "log_surface_pressure",
    *TRACERS,
    "temperature_variation",
    "u",
    "v",
    "vorticity",
)
MEMORY_SCALES = {
    "deterministic_2_8_deg": {
        "log_surface_pressure": 0.1123,
        "specific_humidity": 0.003298,
    }
}
MEMORY_SHIFTS = {
    "deterministic_2_8_deg": {
        "specific_humidity": 0.003298,
        "temperature_variation": -4.946,
    },
    "deterministic_1_4_deg": {"specific_humidity": 0.003298},
}
